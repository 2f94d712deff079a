"""The coordinator: decisions are written down before they are told, and carried out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from elasticdl.data.shards import Shard
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.cluster.backend import LOG_TAIL_BYTES, BackendEvent, InstanceEnded
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Needs, Role
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.tasks import JobPlan, TaskKind

PS = InstanceSpec(Role.PS, 0, 1)
WORKER = InstanceSpec(Role.WORKER, 0, 1)


class Recorder:
    """A backend that notes what it is asked for; instances end when a test says so."""

    def __init__(self) -> None:
        self.launched: list[InstanceSpec] = []
        self.adopted: list[InstanceSpec] = []
        self.stopped: list[InstanceSpec] = []
        self.changed = threading.Condition()
        self.tell: Callable[[BackendEvent], None] = lambda event: None

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        with self.changed:
            self.launched.append(spec)
            self.changed.notify_all()

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        self.adopted += specs
        for spec in specs:  # As the local backend does.
            self.launch(spec, Needs())

    def wait_for(self, launched: list[InstanceSpec]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.launched == launched, 10.0), self.launched

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        self.stopped.append(spec)

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        self.tell = on_event

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        return ""

    def clean_up(self) -> None:
        pass

    def close(self) -> None:
        pass


class Running:
    """A coordinator whose instances have registered."""

    def __init__(self, job_dir: Path) -> None:
        spec = JobSpec(command="train", job_dir=str(job_dir), num_workers=1, num_ps=1)
        plan = JobPlan(phases=(TaskKind.TRAINING,), shards=(Shard("a", 20),), records_per_task=10)
        self.backend = Recorder()
        self.journal = Journal(job_dir)
        self.coordinator = Coordinator(spec, plan, self.backend, self.journal)
        self.coordinator.start()
        assert self.coordinator.register(Registered(PS, "here:1", 1))
        assert self.coordinator.register(Registered(WORKER, "", 2))

    def close(self) -> None:
        self.coordinator.ended.set()
        self.journal.close()


@pytest.fixture
def running(tmp_path):
    one = Running(tmp_path)
    yield one
    one.close()


def test_a_lost_worker_is_replaced_and_its_task_granted_to_the_replacement(running, tmp_path):
    coordinator, backend = running.coordinator, running.backend
    granted = coordinator.lease(WORKER, 0)
    backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    replacement = InstanceSpec(Role.WORKER, 0, 2)
    backend.wait_for([PS, WORKER, replacement])
    assert coordinator.lease(WORKER, 1) is None, "the dead have no say"
    assert not coordinator.heartbeat(WORKER, [], None)
    assert coordinator.register(Registered(replacement, "", 3))
    again = coordinator.lease(replacement, 0)
    assert again.task is granted.task
    assert any("killed by SIGKILL" in text for _, text in coordinator.messages(0))


def test_a_worker_that_says_goodbye_has_not_crashed(running):
    coordinator, backend = running.coordinator, running.backend
    grant = coordinator.lease(WORKER, 0).grant
    coordinator.give_back(WORKER, [grant], goodbye=True)
    assert isinstance(coordinator.lease(WORKER, 1), ledger_events.NoMoreTasks)
    for incarnation in range(1, 20):
        coordinator.give_back(InstanceSpec(Role.WORKER, 0, incarnation), [], goodbye=True)
        backend.tell(InstanceEnded(InstanceSpec(Role.WORKER, 0, incarnation), End.of_exit_code(0)))
        assert coordinator.outcome is None
        coordinator.register(Registered(InstanceSpec(Role.WORKER, 0, incarnation + 1), "", 3))


def test_a_worker_that_ends_by_itself_again_and_again_is_given_up(running):
    coordinator, backend = running.coordinator, running.backend
    for incarnation in range(1, 6):
        spec = InstanceSpec(Role.WORKER, 0, incarnation)
        backend.wait_for([PS, *(InstanceSpec(Role.WORKER, 0, i + 1) for i in range(incarnation))])
        backend.tell(InstanceEnded(spec, End.of_exit_code(0)))
    assert coordinator.outcome.state == "failed"
    assert "crashed 5 times in a row" in coordinator.outcome.error


def test_the_job_ends_with_its_last_task(running):
    coordinator = running.coordinator
    for request in range(2):
        task = coordinator.lease(WORKER, request).task
        coordinator.report(ledger_events.TaskCompleted(task.id, (1,), 1))
    assert coordinator.ended.is_set()
    assert coordinator.outcome.state == "succeeded"
    assert isinstance(coordinator.lease(WORKER, 2), ledger_events.NoMoreTasks)


def test_the_journal_tells_the_story(running, tmp_path):
    coordinator = running.coordinator
    task = coordinator.lease(WORKER, 0).task
    coordinator.report(ledger_events.TaskCompleted(task.id, (1,), 1, result='{"records": 1}'))
    coordinator.lease(WORKER, 1)
    coordinator.scale(3)
    kinds = [entry.kind for entry in read_journal(tmp_path)]
    assert kinds[:3] == ["job", "plan", "tasks"]
    assert kinds.index("tasks") < kinds.index("granted") < kinds.index("done")
    (scaled,) = read_journal(tmp_path, "scaled")
    assert scaled.body == {"num_workers": 3}
    added = [InstanceSpec(Role.WORKER, 1, 1), InstanceSpec(Role.WORKER, 2, 1)]
    running.backend.wait_for([PS, WORKER, *added])


def test_nothing_is_granted_once_the_journal_cannot_be_written(running):
    coordinator = running.coordinator
    running.journal._db.execute("PRAGMA query_only = ON")
    with pytest.raises(JobError, match="journal"):
        coordinator.lease(WORKER, 0)
    assert coordinator.ended.is_set()
    assert coordinator.outcome.state == "failed"
    assert "journal" in coordinator.outcome.error
    assert isinstance(coordinator.lease(WORKER, 1), ledger_events.NoMoreTasks)
    running.journal._db.execute("PRAGMA query_only = OFF")


def test_a_failed_task_ends_the_job_with_the_users_traceback(running):
    coordinator = running.coordinator
    for request in range(3):
        grant = coordinator.lease(WORKER, request).grant
        coordinator.report(ledger_events.TaskFailed(grant, "ValueError: bad", "Traceback: line 1"))
    assert coordinator.outcome.state == "failed"
    assert "a, records" in coordinator.outcome.error
    assert coordinator.outcome.traceback == "Traceback: line 1"
