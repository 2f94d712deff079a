"""What people are told: each thing once, with its reason, and nothing that did not happen."""

from __future__ import annotations

import dataclasses

import pytest

from elasticdl.api.events import events
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.cluster_state import CommittedCheckpoint
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.ledger_events import (
    GrantsReturned,
    LeaseRequested,
    MasterStarted,
    PartitionStarted,
    RolledBack,
    RoundBegan,
    TaskCompleted,
    WorkerLost,
)
from elasticdl.master.membership_events import Registered, Tick
from elasticdl.master.recorded_ledger import RecordedLedger
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, TaskKind
from tests.master import plans
from tests.master.restart_model import RestartModel
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import PLAN, Masters

_TICK = Tick()
TRAINS = dataclasses.replace(
    PLAN, phases=(TaskKind.TRAINING, TaskKind.EXPORT), shards=(Shard("a", 10),), checkpoints=True
)


@pytest.fixture
def masters(tmp_path):
    JobSpec(command="train", job_dir=str(tmp_path)).save(tmp_path)
    masters = Masters(tmp_path, TRAINS)
    first = masters.next()
    assert first.register(Registered(PS, "here:1", 1))
    assert first.register(Registered(WORKER, "", 2))
    yield masters
    masters.kill()


def told(masters: Masters) -> list[str]:
    """The terminal's lines."""
    return [text for _, text in masters.coordinator.messages(0)]


def texts(masters: Masters, kind: str) -> list[str]:
    return [one.text for one in events(masters.spec.job_dir) if one.kind == kind]


def commit(masters: Masters, number: int) -> None:
    checkpoint = CommittedCheckpoint(number, "there", 1, 1, ((0, 9),), "final", 1, 0.1)
    version = masters.coordinator.cluster_version
    assert masters.coordinator.commit_checkpoint(checkpoint, version)


def granted_to(recorded: RecordedLedger, worker: int, num_tasks: int) -> None:
    for request in range(num_tasks):
        recorded.handle(LeaseRequested(worker, 1, request), 0.0)


def test_of_tasks_that_are_leased_again_it_is_said_once_how_many_and_why():
    plan = JobPlan((TaskKind.TRAINING,), (Shard("/a/long/path", 50),), records_per_task=10)
    for num_tasks, which in ((1, "task 0"), (2, "2 tasks")):
        recorded = RecordedLedger(plan)
        recorded.handle(PartitionStarted(0, 1), 0.0)
        granted_to(recorded, 0, num_tasks)
        _, notes = recorded.handle(WorkerLost(0, 1, "killed by SIGKILL"), 1.0)
        assert len([one for one in notes if one.kind == "requeued"]) == num_tasks
        assert [one.text for one in notes if one.text] == [
            f"{which} will be leased again: worker 0 was lost (killed by SIGKILL)"
        ]


def test_of_tasks_that_workers_give_back_or_hold_too_long_it_is_said_whose_they_were():
    plan = JobPlan((TaskKind.TRAINING,), (Shard("a", 50),), records_per_task=10, lease_s=30.0)
    recorded = RecordedLedger(plan)
    recorded.handle(PartitionStarted(0, 1), 0.0)
    granted_to(recorded, 0, 2)
    granted_to(recorded, 1, 1)
    grants = (*recorded.ledger.grants_of(0), *recorded.ledger.grants_of(1))
    _, notes = recorded.handle(GrantsReturned(grants), 1.0)
    assert [one.text for one in notes if one.text] == [
        "2 tasks will be leased again: given back by worker 0",
        "task 2 will be leased again: given back by worker 1",
    ]
    recorded.handle(LeaseRequested(2, 1, 0), 2.0)
    _, notes = recorded.handle(ledger_events.Tick(), 60.0)
    assert [one.text for one in notes if one.text] == [
        "task 2 will be leased again: the lease of worker 2 ended"
    ]


def test_a_sync_job_that_is_resumed_says_once_that_its_tasks_are_leased_again():
    plan = JobPlan((TaskKind.TRAINING,), (Shard("a", 50),), records_per_task=10, lanes=2)
    recorded = RecordedLedger(plan)
    recorded.handle(PartitionStarted(0, 1), 0.0)
    granted_to(recorded, 0, 2)
    _, notes = recorded.handle(MasterStarted(2, resumed=True), 1.0)
    assert [one.text for one in notes if one.text] == [
        "2 tasks will be leased again: the job was resumed"
    ]
    granted_to(recorded, 1, 1)
    _, notes = recorded.handle(RolledBack(9, 9), 2.0)
    assert [one.kind for one in notes if one.kind == "requeued"]
    assert not any(one.text for one in notes), "that it goes on from a checkpoint is said besides"


def test_a_rescale_that_training_does_not_wait_for_is_said_not_to_come_about(masters):
    coordinator = masters.coordinator
    task = coordinator.lease(WORKER, 0).task
    coordinator.report(TaskCompleted(task.id, (1,), 1))
    assert coordinator.rescale(3) == ""
    commit(masters, 1)
    line = (
        "not rescaled to 3 parameter servers: "
        "training was over before the checkpoint that it waited for"
    )
    assert told(masters)[-1] == line
    assert texts(masters, "not_rescaled") == [line]
    masters.next()
    masters.backend.wait_for([PS, WORKER])
    assert not masters.coordinator.checkpoint_state()[0], "the next master does not want it either"


def test_who_is_stopped_for_another_number_has_not_died(masters):
    coordinator = masters.coordinator
    coordinator.lease(WORKER, 0)
    coordinator.rescale(2)
    commit(masters, 1)
    coordinator.scale(2)
    coordinator.scale(1)
    masters.backend.tell(InstanceEnded(PS, End.of_exit_code(-9)))
    masters.backend.tell(InstanceEnded(InstanceSpec(Role.WORKER, 1, 1), End.of_exit_code(0)))
    coordinator.scale(2)
    assert texts(masters, "exited") == [
        "parameter server 0, incarnation 1: stopped, as there are 2 parameter servers now",
        "worker 1, incarnation 1: stopped, as there is 1 worker now",
    ]
    assert texts(masters, "launch") == [
        "parameter server 0, incarnation 1: the job begins",
        "worker 0, incarnation 1: the job begins",
        "parameter server 0, incarnation 2: there are 2 parameter servers now",
        "parameter server 1, incarnation 1: there are 2 parameter servers now",
        "worker 1, incarnation 1: there are 2 workers now",
        "worker 1, incarnation 2: there are 2 workers now",
    ]
    assert texts(masters, "gone") == []
    assert not any("relaunched" in one or "killed" in one for one in told(masters))


def test_who_is_given_up_is_told_to_be_stopped_for_that(masters):
    with masters.coordinator._transactions.begin():
        silent = masters.coordinator._membership
        masters.coordinator._carry_out_membership(silent.handle(_TICK, 1000.0))
    masters.backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    (reason,) = {one for one in texts(masters, "gone") if one.startswith("worker")}
    assert reason.startswith("worker 0, incarnation 1 is given up: not heard from for")
    (exited,) = texts(masters, "exited")
    assert exited.startswith("worker 0, incarnation 1: stopped, as it was not heard from for")
    assert "worker 0 is relaunched" in told(masters)


def test_a_single_parameter_server_is_up(masters):
    notes = masters.coordinator._placement
    notes.place(1, 2.0)
    (note,) = notes.all_are_up(3.5)
    assert note.text == "1 parameter server is up: training paused for 1.5 s"


def test_a_round_that_begins_again_says_why():
    class Telling(RestartModel):
        def _note(self, actions):
            began.extend(one for one in actions if isinstance(one, RoundBegan))
            super()._note(actions)

    began: list[RoundBegan] = []
    schedule = EvaluationSchedule(epochs=1)
    for seed in range(12):
        plan = plans.make_plan([60], 3, 3, 9, None, validation=20, evaluation=schedule)
        plan = dataclasses.replace(plan, checkpoints=True)
        cluster = Telling(plan, 2, 2, seed)
        cluster.run(40)
        cluster.check()
    again = [one.again for one in began if one.again]
    assert again
    assert all("was lost meanwhile" in why for why in again)
