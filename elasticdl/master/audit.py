"""The audit: what every group of every partition applied, against what the job was to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.master.cluster_state import COMMITTED
from elasticdl.master.journal import read_journal
from elasticdl.master.recovery import recover
from elasticdl.master.story import Story
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import ps_pb2
from elasticdl.ps.checkpoint_audit import audits_of

_COUNTS = {
    "filtered": "filtered_records",
    "added": "added_records",
    "skipped": "skipped_records",
    "beyond_max_steps": "beyond_limit_records",
    "repeated": "repeated_records",
}
_OF_TABLES = ("rows", "num_bytes", "candidates", "unadmitted_gradients", "evicted_rows")


def audit_job(
    plan: JobPlan,
    story: Story,
    granted: tuple[int, int],
    partitions: Callable[[], Sequence[ps_pb2.PartitionAudit]],
    relaunches: int,
    done: bool,
    tasks_restarted: int = 0,
) -> dict[str, Any]:
    """Make the audit of a job of any kind; see `audit_training` and `audit_records`.

    Args:
      plan: what the job is to do.
      story: what it counted so far.
      granted: records and tasks of training that were granted.
      partitions: called for what they counted, where that is needed.
      relaunches: instances that were replaced.
      done: whether the job has succeeded.
      tasks_restarted: tasks that began anew.
    """

    def audit_counted(kind: TaskKind) -> dict[str, Any]:
        counted = story.counted[kind]
        # A job of this kind alone spans its data, also before its tasks are defined.
        spanned = sum(shard.num_records for shard in plan.shards)
        expected = spanned if plan.main_kind is kind else counted.defined
        return audit_records(expected, counted.expected, counted.counted, relaunches, done)

    if TaskKind.TRAINING not in plan.phases:
        predicts = TaskKind.PREDICTION in plan.phases
        return audit_counted(TaskKind.PREDICTION if predicts else TaskKind.EVALUATION)
    records, tasks = granted
    of_partitions = partitions() if tasks else []
    audit = audit_training(records, tasks, of_partitions, relaunches, done, tasks_restarted)
    if plan.validation_shards:
        audit["evaluation"] = audit_counted(TaskKind.EVALUATION)
    return audit


def audit_of_journal(job_dir: str | Path) -> dict[str, Any]:
    """Make the audit of a job that nobody can be asked of: what it would go on from.

    `as_of` says when that was: of training, the last checkpoint; what was trained after it is in
    progress, and would be trained again.

    Raises:
      JobError: there is no journal, or nothing in it.
    """
    recovered = recover(job_dir)
    if recovered is None:
        raise JobError(f"journal of '{job_dir}': it does not say what the job is to do")
    recorded, plan = recovered.recorded, recovered.plan
    entries = list(read_journal(job_dir))
    kept = [entry for entry in entries if entry.kind == COMMITTED]
    trains = TaskKind.TRAINING in plan.phases
    audit = audit_job(
        plan,
        recorded.story,
        recorded.ledger.training_granted(),
        lambda: _audits_at(kept[-1].body["path"]) if kept else [],
        sum(one.kind == "launch" and one.body["incarnation"] > 1 for one in entries),
        recovered.outcome is not None and recovered.outcome.state == "succeeded",
        recorded.ledger.num_restarted,
    )
    last = kept[-1] if trains and kept else entries[-1]
    number = last.body["number"] if last.kind == COMMITTED else None
    return {**audit, "as_of": {"checkpoint": number, "time": last.time}}


def _audits_at(checkpoint: str) -> list[ps_pb2.PartitionAudit]:
    try:
        return audits_of(checkpoint)
    except OSError as error:  # Of a store; a directory that is not there is no whole checkpoint.
        raise JobError(f"checkpoint '{checkpoint}': {error.strerror}") from None


def audit_training(
    records_expected: int,
    tasks_expected: int,
    partitions: Sequence[ps_pb2.PartitionAudit],
    relaunches: int,
    done: bool,
    tasks_restarted: int = 0,
) -> dict[str, Any]:
    """Compare what the groups counted with what the ledger granted.

    Of the records expected each group has applied, dropped as filtered, skipped (not finite) or not
    reached (`max_steps`) some; records the input function added are applied besides. What is
    missing then is in progress while the job runs (or where it failed), and lost once it is done.
    Tasks that began anew, as the input function is not deterministic, are counted as they were
    trained in the end; what was trained of them before is repeated.
    All groups agree unless something is wrong: the worst is reported.

    Args:
      records_expected: of all tasks granted, all epochs.
      tasks_expected: how many they are.
      partitions: the counts of every partition, by index.
      relaunches: instances that were replaced.
      done: whether the job has succeeded, so that nothing may be missing.
      tasks_restarted: tasks that began anew.

    Returns:
      What `elasticdl jobs audit --json` prints.
    """
    missing = [
        records_expected
        - partition.applied_records[position]
        + partition.added_records[position]
        - partition.filtered_records[position]
        - partition.skipped_records[position]
        - partition.beyond_limit_records[position]
        for partition in partitions
        for position in range(len(partition.groups))
    ]
    worst = max(missing, key=abs, default=records_expected)
    counts = {
        name: max((max(getattr(one, field), default=0) for one in partitions), default=0)
        for name, field in _COUNTS.items()
    }
    open_tasks = max((tasks_expected - one.closed_tasks for one in partitions), default=0)
    return {
        "records_expected": records_expected,
        "applied_once": {
            str(index): min(one.applied_records, default=0) for index, one in enumerate(partitions)
        },
        **counts,
        "repeats_dropped": sum(max(one.repeats_dropped, default=0) for one in partitions),
        "in_progress": 0 if done else worst,
        "lost": abs(worst) if done else 0,
        "tasks": tasks_expected,
        "tasks_not_closed": open_tasks,
        "tasks_at_least_once": tasks_restarted,
        "groups": sum(len(one.groups) for one in partitions),
        "partitions": len(partitions),
        "minibatches": max(
            (max(one.applied_minibatches, default=0) for one in partitions), default=0
        ),
        "relaunches": relaunches,
        "tables": _tables(partitions),
    }


def _tables(partitions: Sequence[ps_pb2.PartitionAudit]) -> dict[str, dict[str, int]]:
    """Sum up by table what its partitions tell of their rows."""
    tables: dict[str, dict[str, int]] = {}
    for partition in partitions:
        for one in partition.tables:
            sums = tables.setdefault(one.name, dict.fromkeys(_OF_TABLES, 0))
            for field in _OF_TABLES:
                sums[field] += getattr(one, field)
    return tables


def audit_records(
    records_expected: int, records_done: int, records_counted: int, relaunches: int, done: bool
) -> dict[str, Any]:
    """The audit of an evaluation or prediction: each task's result is counted once.

    Args:
      records_expected: of all tasks.
      records_done: of those whose result is here.
      records_counted: what those results are of, after the input function.
      relaunches: instances that were replaced.
      done: whether all tasks should be done.
    """
    missing = records_expected - records_done
    return {
        "records_expected": records_expected,
        "applied_once": {},
        "counted_once": min(records_done, records_counted),
        "filtered": max(0, records_done - records_counted),
        "added": max(0, records_counted - records_done),
        "skipped": 0,
        "beyond_max_steps": 0,
        "repeats_dropped": 0,
        "in_progress": 0 if done else missing,
        "lost": missing if done else 0,
        "relaunches": relaunches,
    }
