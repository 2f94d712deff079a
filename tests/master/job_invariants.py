"""What holds of a job at any moment, whatever has happened to it, and at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from elasticdl.master.audit import audit_training
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.recorded_ledger import fold
from elasticdl.master.replays import contains
from elasticdl.master.tasks import TaskKind
from elasticdl.proto import ps_pb2
from elasticdl.ps.progress import CLOSED, Progress
from tests.master.job_model import JobModel, Server
from tests.master.test_fold import state_of


def check(job: JobModel) -> None:
    """Check all that holds at any moment."""
    outcome = job.master.outcome
    assert outcome is None or outcome.state == "succeeded", outcome
    no_task_is_lost(job)
    what_is_done_is_closed_or_known(job)
    groups_are_where_they_are_said_to_be(job)
    for server in job.all_of(Role.PS):
        counts_add_up(job, server)


def no_task_is_lost(job: JobModel) -> None:
    """Every task waits once, or is leased, or is done; what is counted adds up to all of them."""
    ledger = job.ledger
    queue = ledger._tasks.queue
    waiting = Counter(task.id for task in queue)
    for entries in queue._lanes._queues.values():
        waiting.update(task_id for _, task_id, _ in entries)
    for task in ledger._tasks:
        is_leased = bool(ledger.holders(task.id))
        assert waiting.pop(task.id, 0) == (not is_leased), f"{task}: leased: {is_leased}"
    assert not waiting, "what waits is open"
    assert all(lease.task.id in ledger._tasks for lease in ledger._leases), "what is leased is open"
    course = ledger._course
    again = len(ledger._replays.open) + (course.is_initializing and course._is_initialized)
    assert ledger.num_tasks == ledger.num_done + len(ledger._tasks) - again


def what_is_done_is_closed_or_known(job: JobModel) -> None:
    """No partition that serves lacks a task that is done; what no checkpoint has is known."""
    ledger = job.ledger
    replays = ledger._replays
    covered = {i for start, end in replays.covered for i in range(start, end)}
    done = covered | {task.id for task in replays if task.id not in replays.open}
    committed = job.master.committed
    if committed is not None:
        for history in (history for _, history in job.checkpoints[committed.path].values()):
            assert covered <= history.closed, "the last checkpoint has what the ledger forgot"
    for server in job.all_of(Role.PS):
        if is_served_by(job, server):
            for group, history in zip(server.groups, server.histories, strict=True):
                lacking = done - history.closed
                assert not lacking, f"{server.spec} group {group} lacks {lacking}, which are done"
    if not job.plan.lanes:  # What was done after the checkpoint that sync went back to is not.
        noted = {
            one.body["task"]
            for one in job.journal.written
            if one.kind == "done" and one.body["kind"] == TaskKind.TRAINING.name
        }
        known = {task.id for task in replays}
        assert all(one in known or contains(replays.covered, one) for one in noted)


def is_served_by(job: JobModel, server: Server) -> bool:
    """Whether the ledger relies on this incarnation of a partition."""
    current = job.ledger.partition_incarnations.get(server.spec.index)
    return server.progress is not None and current == server.spec.incarnation


def groups_are_where_they_are_said_to_be(job: JobModel) -> None:
    """Where all partitions are up, every group is on the one that the routing table names."""
    cluster = job.master.cluster()
    for partition in () if cluster is None else cluster.partitions:
        server = job.processes.get(partition.spec)
        if isinstance(server, Server):
            assert cluster is not None
            assert server.groups == list(cluster.routing.groups_of(partition.spec.index))


def counts_add_up(job: JobModel, server: Server) -> None:
    """A group has counted what it applied, and of closed tasks every record, each once."""
    progress = server.progress
    if progress is None:
        return
    totals = progress.totals
    for position, history in enumerate(server.histories):
        mine = progress.group(position)
        assert totals.applied_records[position] == history.records
        assert set(history.closed) == {
            i for start, end in mine.closed.intervals for i in range(start, end)
        }
        begun = {task: n for task, n in history.minibatches.items() if task not in history.closed}
        assert {task: state.next for task, state in mine.open.items()} == begun
        accounted = (
            totals.applied_records[position]
            - sum(state.records for state in mine.open.values())
            + totals.filtered_records[position]
            + totals.beyond_limit_records[position]
            - totals.added_records[position]
        )
        assert accounted == totals.closed_records[position]
        spans = [job.definitions[task] for task in history.closed]
        assert totals.closed_records[position] == sum(span[3] - span[2] for span in spans)


def the_journal_is_the_ledger(job: JobModel) -> None:
    """Another master that read the journal now would know what this one knows."""
    folded = fold(job.plan, job.journal.entries())
    assert differences(state_of(folded), state_of(job.master._recorded)) == []


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Say where two states differ."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        return [
            found for key in one for found in differences(one[key], other[key], f"{where}.{key}")
        ]
    return [] if one == other else [f"{where}: {one} is not {other}"]


def check_the_end(job: JobModel) -> None:
    """Every group has every record that was to be trained on, once, and the audit says so."""
    outcome = job.master.outcome
    assert outcome is not None
    assert outcome.state == "succeeded", outcome
    expected, num_tasks = job.master.training_granted()
    of_an_epoch = sum(shard.num_records for shard in job.plan.shards)
    if job.plan.max_steps is None:
        assert expected == of_an_epoch * job.plan.num_epochs
    assert job.master.committed is not None
    saved = job.checkpoints[job.master.committed.path]
    at_last = Server(
        InstanceSpec(Role.PS, 0, 0),
        groups=sorted(saved),
        progress=Progress.of_groups([saved[group][0] for group in sorted(saved)]),
        histories=[saved[group][1] for group in sorted(saved)],
    )
    # A partition may have died so late that nobody knew: the last checkpoint has everything.
    counts_add_up(job, at_last)
    for server in [at_last, *(one for one in job.all_of(Role.PS) if is_served_by(job, one))]:
        assert server.progress is not None
        for history in server.histories:
            assert len(history.closed) == num_tasks
            spans = Counter(
                (span[4], span[1], record)
                for span in (job.definitions[task] for task in history.closed)
                for record in range(span[2], span[3])
            )
            assert set(spans.values()) <= {1}, "each record of each epoch once"
            assert len(spans) == expected
        assert all(server.progress.next(task) == CLOSED for task in server.histories[0].closed)
        audit = audit_training(expected, num_tasks, [audit_of(server)], 0, done=True)
        assert (audit["lost"], audit["tasks_not_closed"]) == (0, 0)
    counted = job.master.story.counted[TaskKind.EVALUATION]
    held_out = sum(shard.num_records for shard in job.plan.validation_shards)
    assert counted.counted == held_out * len(job.master.story.evaluations)
    assert bool(held_out) == bool(job.master.story.evaluations)


def audit_of(server: Server) -> ps_pb2.PartitionAudit:
    """What a partition tells the audit."""
    progress = server.progress
    assert progress is not None
    names = (
        "applied_records",
        "applied_minibatches",
        "repeats_dropped",
        "skipped_records",
        "filtered_records",
        "added_records",
        "beyond_limit_records",
        "closed_records",
        "repeated_records",
    )
    told = ps_pb2.PartitionAudit(groups=server.groups, closed_tasks=len(progress.closed))
    for name in names:
        getattr(told, name).extend(int(one) for one in getattr(progress.totals, name))
    return told
