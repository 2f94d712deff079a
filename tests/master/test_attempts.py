"""An input function that is not deterministic (R7): at least once, and always to the end."""

from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elasticdl.data.shards import Shard
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Grant,
    GrantsReturned,
    LeaseRequested,
    PartitionStarted,
    TaskCompleted,
    TaskDiffers,
    TaskRestarted,
    Wait,
)
from elasticdl.master.recorded_ledger import RecordedLedger
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.master.cluster_model import ClusterModel
from tests.master.plans import SEEDS, plans
from tests.master.restart_model import RestartModel

PLAN = JobPlan(
    phases=(TaskKind.TRAINING,),
    shards=(Shard("a", 50),),
    records_per_task=10,
    backups=True,
    shuffle=False,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=plans(most_epochs=2),
    num_workers=st.integers(1, 4),
    num_partitions=st.integers(1, 3),
    seed=SEEDS,
    disturbances=st.integers(0, 60),
    restarts=st.booleans(),
)
def test_whoever_dies_every_group_has_all_of_one_reading_of_each_task(
    plan, num_workers, num_partitions, seed, disturbances, restarts
):
    plan = dataclasses.replace(plan, checkpoints=restarts)
    model = RestartModel if restarts else ClusterModel
    cluster = model(plan, num_workers, num_partitions, seed)
    cluster.varies = True
    cluster.run(disturbances)
    cluster.check()


def granted(ledger: Ledger, worker: int, request: int = 0, now: float = 0.0) -> Grant:
    *_, answer = ledger.handle(LeaseRequested(worker, 1, request), now)
    assert isinstance(answer, Grant), answer
    return answer


def test_a_task_that_differs_begins_anew_before_new_ones_and_once():
    ledger = Ledger(PLAN)
    ledger.handle(PartitionStarted(0, 1), 0)
    task = granted(ledger, 0).task
    assert ledger.handle(TaskDiffers(task.id, 0), 1) == [TaskRestarted(task, is_first=True)]
    assert ledger.handle(TaskDiffers(task.id, 0), 1) == []
    again = granted(ledger, 1, now=1)
    assert (again.task.id, again.task.attempt) == (task.id, 1)
    assert ledger.handle(TaskDiffers(task.id, 1), 2) == [TaskRestarted(task, is_first=False)]
    assert ledger.num_restarted == 1
    assert ledger.handle(GrantsReturned((again.grant,)), 2) == []
    ledger.handle(TaskCompleted(task.id, (1,), 1), 3)
    assert ledger.handle(TaskDiffers(task.id, 2), 3) == []
    assert ledger.num_done == 1


def test_of_a_lane_what_was_granted_because_of_a_task_that_begins_anew_is_given_away_too():
    plan = dataclasses.replace(PLAN, lanes=1, minibatch_size=1, shuffle=False)
    ledger = Ledger(plan)
    ledger.handle(PartitionStarted(0, 1), 0)
    first, second = granted(ledger, 0, 0).task, granted(ledger, 0, 1).task
    assert (first.lane.position, second.lane.position) == (0, 1)
    *again, restarted = ledger.handle(TaskDiffers(first.id, 0), 1)
    assert [one.task for one in again] == [second]
    assert restarted == TaskRestarted(first, is_first=True)
    assert [granted(ledger, 1, k).task.id for k in range(2)] == [first.id, second.id]


def test_a_straggler_is_not_leased_twice_once_the_input_is_known_to_vary():
    for varies in (False, True):
        ledger = Ledger(PLAN)
        ledger.handle(PartitionStarted(0, 1), 0)
        if varies:
            ledger.handle(TaskDiffers(granted(ledger, 0, 0).task.id, 0), 0)
        for request in range(1, 5):
            task = granted(ledger, 0, request).task
            ledger.handle(TaskCompleted(task.id, (1,), 1), 1)
        granted(ledger, 0, 5, now=1)
        *_, answer = ledger.handle(LeaseRequested(1, 1, 0), 25)
        assert isinstance(answer, Wait if varies else Grant)


def test_it_is_told_once_and_every_restart_is_written_down():
    recorded = RecordedLedger(PLAN)
    recorded.handle(PartitionStarted(0, 1), 0)
    for request, is_told in enumerate([True, False]):
        (*_, grant), _ = recorded.handle(LeaseRequested(0, 1, request), 0)
        _, notes = recorded.handle(TaskDiffers(grant.task.id, request), 0)
        (note,) = [one for one in notes if one.kind == "restarted"]
        assert note.body == {"task": 0, "attempt": request + 1}
        assert ("make it deterministic" in note.text) == is_told
