"""Checkpoints of real partitions, coordinated by the real master in one process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master import checkpoint_schedule, checkpoints, ledger_events
from elasticdl.master.checkpoints import Checkpoints
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.exits import End
from elasticdl.master.instances import Instance, InstanceSpec, Role
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.placement import MOST_FIRST_FAILURES, Placement
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.checkpoint_audit import audits_of
from elasticdl.ps.manifest import committed, numbers_in, read_manifest, verify
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.rpc import DirectTransport, Service
from tests.master.test_coordinator import Recorder
from tests.partitions import DENSE, DESCRIPTOR, IDS, Servers

WORKER = InstanceSpec(Role.WORKER, 0, 1)
DEADLINE_S = 60.0
STOPPED = ["parameter server 0", "parameter server 1"]
PHASES = (TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT)


class Job:
    """A job of one worker, the test, and of partitions in this process."""

    def __init__(self, tmp_path: Path, **options) -> None:
        self.directory = tmp_path / "job"
        self.directory.mkdir()
        options = {"checkpoint_steps": 0, "checkpoint_secs": 0.0, **options}
        self.spec = JobSpec(
            command="train", job_dir=str(self.directory), num_workers=1, num_ps=2, **options
        )
        plan = JobPlan(
            PHASES,
            (Shard("a", 1000),),
            records_per_task=10,
            checkpoints=True,
            keep_checkpoints=self.spec.keep_checkpoints,
        )
        self.servers = Servers(2, initialize=False)
        self.backend, self.journal = Recorder(), Journal(self.directory)
        self.coordinator = Coordinator(self.spec, plan, self.backend, self.journal)
        self.checkpoints = Checkpoints(self.spec, self.coordinator, self.connect)
        self.request = 0
        self.coordinator.start()
        for index in range(2):
            assert self.coordinator.register(Registered(self.ps(index)))
        assert self.coordinator.register(Registered(WORKER))
        self.checkpoints.start()

    def ps(self, index: int) -> InstanceSpec:
        return InstanceSpec(Role.PS, index, self.servers.partitions[index].incarnation)

    def connect(self, instance: Instance) -> DirectTransport:
        return DirectTransport(Service(DESCRIPTOR, self.servers.partitions[instance.spec.index]))

    def lease(self) -> ledger_events.Action | None:
        self.request += 1
        return self.coordinator.lease(WORKER, self.request)

    def initialize(self) -> None:
        grant = self.lease()
        assert grant.task.kind is TaskKind.INITIALIZE
        self.servers.client.initialize(DENSE)
        self.complete(grant.task)

    def complete(self, task, num_minibatches: int = 0) -> None:
        incarnations = self.servers.client.incarnations
        event = ledger_events.TaskCompleted(task.id, incarnations, num_minibatches)
        self.coordinator.report(event)

    def train(self, num_tasks: int = 1) -> list[int]:
        """Train tasks of one minibatch each; return which."""
        trained = []
        for _ in range(num_tasks):
            task = self.wait_for("a task", lambda: granted(self.lease()))
            assert task.kind is TaskKind.TRAINING
            ids = IDS + task.id
            self.servers.push(0, ids, 1.0, 1.0, task=task.id)
            header = ps_pb2.PushHeader(task=task.id, k=1, close=True, task_records=10)
            for index in range(len(self.servers.partitions)):
                self.servers.client.push(index, header)
            self.complete(task, 1)
            trained.append(task.id)
        return trained

    def restore(self, launched: list[tuple[int, int]], of: Path) -> None:
        """Have these partitions, (index, incarnation) each, do as they are told at their start."""
        for index, incarnation in launched:
            spec = InstanceSpec(Role.PS, index, incarnation)
            assert self.coordinator.register(Registered(spec, ready=False))
            told = self.coordinator.restore(spec)
            assert told.checkpoint == str(of)
            routing = ps_pb2.Routing(
                version=told.routing.version, partition_of_group=told.routing.partition_of_group
            )
            partition = Partition(index, incarnation)
            partition.restore(Source.checkpoint(of), routing)
            self.servers.partitions[index : index + 1] = [partition]
            closed = tuple(partition.progress.closed.intervals)
            assert self.coordinator.register(Registered(spec, closed=closed))
        cluster = master_pb2.Cluster(
            routing=routing,
            partitions=[
                master_pb2.Partition(index=one.index, incarnation=one.incarnation)
                for one in self.servers.partitions
            ],
        )
        self.servers.client = self.servers.connect(cluster)

    def applied(self) -> list[set[int]]:
        """Records that the groups of each partition have applied."""
        audits = [
            one.get_audit(ps_pb2.AuditRequest(incarnation=one.incarnation))
            for one in self.servers.partitions
        ]
        return [set(one.applied_records) for one in audits]

    def wait_for(self, what: str, condition):
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        raise AssertionError(f"waited {DEADLINE_S:.0f} s for {what}")

    def wait_for_number(self, number: int) -> Path:
        def there() -> bool:
            last = self.coordinator.committed
            return last is not None and last.number >= number

        self.wait_for(f"checkpoint {number}", there)
        return Path(self.coordinator.committed.path)

    def wait_for_failure(self) -> str:
        found = self.wait_for(
            "a failure",
            lambda: [m for _, m in self.coordinator.messages(0) if " failed: " in m],
        )
        return found[-1]

    @property
    def root(self) -> Path:
        return Path(self.spec.checkpoint_root)

    def close(self) -> None:
        self.checkpoints.close()
        self.coordinator.ended.set()
        self.journal.close()


def granted(action):
    return action.task if isinstance(action, ledger_events.Grant) else None


@pytest.fixture
def start(tmp_path):
    jobs = []

    def start_one(**options) -> Job:
        jobs.append(Job(tmp_path, **options))
        return jobs[-1]

    yield start_one
    for job in jobs:
        job.close()


def test_nothing_is_trained_before_the_initial_values_are_committed(start):
    job = start()
    held = threading.Event()
    job.checkpoints._connect = lambda one: (held.wait(DEADLINE_S), job.connect(one))[1]
    job.initialize()
    assert isinstance(job.lease(), ledger_events.Wait)
    held.set()
    path = job.wait_for_number(1)
    job.train()
    assert verify(path) == []
    restored = Partition(0, 2)
    restored.restore(Source.checkpoint(path), job.servers.cluster.routing)
    kinds = [entry.kind for entry in read_journal(job.directory)]

    def training_granted() -> list[int]:
        entries = read_journal(job.directory, "granted")
        return [one.number for one in entries if one.body["kind"] == "TRAINING"]

    trained = job.wait_for("the journal", training_granted)
    (one,) = read_journal(job.directory, "checkpoint")
    assert one.number < min(trained)
    assert one.body["reason"] == "initial"
    assert not {"checkpoint_failed", "checkpoint_retried"} & set(kinds)


def test_checkpoints_come_by_steps_and_old_ones_go_but_for_what_a_kept_one_builds_on(start):
    job = start(checkpoint_steps=2, keep_checkpoints=2)
    job.initialize()
    for number in range(1, 8):
        job.wait_for_number(number)
        job.train(2)
    last = read_manifest(job.wait_for_number(8))
    assert last.steps == 14
    assert last.chain[-1] == 8
    assert len(last.chain) > 1, "only changes were written"
    kept = {8, 7, *last.chain, *read_manifest(job.root / f"{7:010d}").chain}
    job.wait_for("the removal", lambda: {int(one.name) for one in committed(job.root)} == kept)
    for path in committed(job.root):
        assert verify(path) == []
    closed = ledger_ids(last.parts)
    assert closed == [entry.body["task"] for entry in read_journal(job.directory, "done")][1:]


def ledger_ids(parts) -> list[int]:
    bounds = parts[0]["closed"]
    assert all(part["closed"] == bounds for part in parts)
    return sorted(
        one
        for start, end in zip(bounds[::2], bounds[1::2], strict=True)
        for one in range(start, end)
    )


def test_one_that_cannot_be_written_is_said_and_training_goes_on_from_the_one_before(start):
    job = start(checkpoint_steps=2)
    job.initialize()
    before = job.wait_for_number(1)
    (job.root / f"{2:010d}").write_text("in the way, as a full disk is")
    job.train(2)
    failure = job.wait_for_failure()
    assert "checkpoint 2 failed: File exists; checkpoint 1 stays, training goes on" in failure
    assert committed(job.root) == [before]
    job.train(2)
    assert job.wait_for_number(3).name == f"{3:010d}"
    assert verify(job.root / f"{3:010d}") == []


def test_a_partition_that_is_lost_before_the_commit_ends_that_number(start, monkeypatch):
    job = start(checkpoint_steps=2)
    job.initialize()
    path = job.wait_for_number(1)
    commit = job.coordinator.commit_checkpoint

    def lose_one_first(checkpoint, version):
        monkeypatch.setattr(job.coordinator, "commit_checkpoint", commit)
        job.backend.tell(InstanceEnded(job.ps(1), End.of_exit_code(-9)))
        return commit(checkpoint, version)

    monkeypatch.setattr(job.coordinator, "commit_checkpoint", lose_one_first)
    job.train(2)
    job.wait_for("its end", lambda: list(read_journal(job.directory, "checkpoint_retried")))
    assert job.coordinator.committed.number == 1
    job.wait_for("its removal", lambda: numbers_in(job.root) == [1])
    job.restore([(1, 2)], of=path)
    # What it lacks is granted again, before anything new: partition 0 drops the repeats.
    first_two = [entry.body["task"] for entry in read_journal(job.directory, "done")][1:]
    assert sorted(job.train(2)) == first_two
    assert job.applied() == [{8}, {8}]


def test_one_that_is_begun_again_under_another_number_is_told_with_the_reason(start):
    job = start(checkpoint_steps=2)
    job.initialize()
    job.wait_for_number(1)
    partition = job.servers.partitions[0]
    later = ps_pb2.SnapshotRequest(incarnation=partition.incarnation, number=3, at_version=1 << 40)
    partition.snapshot(later)  # So that it answers the second that a newer one was asked for.
    job.train(2)
    job.wait_for_number(3)
    assert not list(read_journal(job.directory, "checkpoint_failed")), "nothing is wrong"
    (ended,) = read_journal(job.directory, "checkpoint_retried")
    assert ended.body["number"] == 2
    assert "another one is begun" in ended.body["reason"]


def test_a_checkpoint_tells_what_its_partitions_had_counted(start):
    job = start(checkpoint_steps=3)
    job.initialize()
    job.wait_for_number(1)
    job.train(3)
    found = audits_of(job.wait_for_number(2))
    asked = [
        one.get_audit(ps_pb2.AuditRequest(incarnation=one.incarnation))
        for one in job.servers.partitions
    ]
    for one in asked:
        del one.tables[:]
        one.dense_bytes = 0
    assert found == asked
    assert found[0].epochs[0].records == 12


def test_groups_move_to_another_number_of_partitions_and_what_was_not_in_the_checkpoint_is_replayed(
    start, monkeypatch
):
    job = start()
    job.initialize()
    job.wait_for_number(1)
    job.train(2)
    assert job.coordinator.rescale(0).startswith("num_ps=0: there are 64 bucket groups")
    for number in (5, 2):  # Somebody thinks better of it.
        with job.coordinator._lock:
            assert job.coordinator.rescale(number) == ""
            job.coordinator.rescale(2)
    commit = job.coordinator.commit_checkpoint

    def train_first(checkpoint, version):
        monkeypatch.setattr(job.coordinator, "commit_checkpoint", commit)
        late.extend(job.train(1))
        return commit(checkpoint, version)

    late: list[int] = []
    monkeypatch.setattr(job.coordinator, "commit_checkpoint", train_first)
    assert job.coordinator.rescale(3) == ""
    path = job.wait_for_number(2)
    job.wait_for("the old ones' end", lambda: sorted(map(str, job.backend.stopped)) == STOPPED)
    job.restore([(0, 2), (1, 2), (2, 1)], of=path)
    assert job.coordinator.cluster().routing.version == 1
    assert job.train(1) == late
    assert job.train(1) != late
    assert job.applied() == [{16}, {16}, {16}]
    dense, _ = job.servers.pull(IDS)
    np.testing.assert_array_equal(dense[:280], DENSE[:280] - 0.5 * 4)
    (entry,) = read_journal(job.directory, "placed")
    assert entry.body == {"num_ps": 3, "routing_version": 1, "checkpoint": 2}
    (entry,) = job.wait_for("it", lambda: list(read_journal(job.directory, "rescaled")))
    assert entry.body["pause_s"] > 0
    assert any("3 parameter servers are up" in text for _, text in job.coordinator.messages(0))


def test_a_job_that_cannot_write_its_first_one_fails_and_says_why(start):
    job = start()
    job.root.write_text("in the way")
    job.initialize()
    assert job.coordinator.ended.wait(DEADLINE_S)
    assert job.coordinator.outcome.state == "failed"
    error = job.coordinator.outcome.error
    assert f"checkpoint_dir '{job.root}': the first checkpoint cannot be written: " in error


def test_while_the_store_is_away_checkpoints_fail_and_are_told_and_the_job_goes_on(
    s3, start, monkeypatch
):
    monkeypatch.setattr(checkpoint_schedule, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(checkpoints, "AWAY_PAUSE_S", 0.1)
    s3.hurry()
    job = start(checkpoint_dir=f"{s3.root}/checkpoints", checkpoint_steps=2)

    def failed() -> list[str]:
        return [one.body["reason"] for one in read_journal(job.directory, "checkpoint_failed")]

    s3.server.line.cut()
    try:
        job.initialize()
        job.wait_for("failures", lambda: len(failed()) > MOST_FIRST_FAILURES)
        assert isinstance(job.lease(), ledger_events.Wait)
        assert job.coordinator.outcome is None
    finally:
        s3.server.line.mend()
    job.wait_for("the first one", lambda: job.coordinator.committed)
    first, before = job.coordinator.committed.number, len(failed())
    s3.server.line.cut()
    try:
        job.train(2)
        job.wait_for("a failure", lambda: len(failed()) > before)
        job.train(2)
    finally:
        s3.server.line.mend()
    job.train(2)
    job.wait_for("another one", lambda: job.coordinator.committed.number > first)
    assert all("no answer from" in reason for reason in failed())
    assert verify(job.coordinator.committed.path) == []
    assert job.coordinator.outcome is None


def test_a_store_that_stays_away_ends_a_job_that_cannot_begin_and_no_other():
    placement = Placement(64, 2, has_standby=False, num_kept=2)
    for at in (5.0, 6.0, 7.0, 100.0, 604.9):
        text, is_final = placement.failed(1, "no answer", "initial", is_loud=True, away_at=at)
        assert "nothing goes on before the initial one; it is tried again" in text
        assert not is_final
    assert placement.failed(2, "no answer", "initial", is_loud=True, away_at=605.0) == (
        "the first checkpoint cannot be written: no answer",
        True,
    )
    again = Placement(64, 2, has_standby=False, num_kept=2)
    found = [again.failed(n, "refused", "initial", is_loud=True)[1] for n in (1, 2, 3)]
    assert found == [False, False, True]


def test_the_end_of_a_job_leaves_nothing_half_written(start):
    job = start()
    job.initialize()
    path = job.wait_for_number(1)
    (job.root / f"{2:010d}").mkdir()
    (job.root / f"{2:010d}" / "p0-dense.arrow").write_bytes(b"half")
    job.close()
    assert [one.name for one in job.root.iterdir()] == [path.name]
