"""The ledger under thousands of random schedules, and its rules one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elasticdl.data.shards import Shard
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Grant,
    GrantsReturned,
    JobDone,
    JobFailed,
    LeaseRequested,
    LeasesHeld,
    NoMoreTasks,
    PartitionStarted,
    PhaseEnded,
    Requeued,
    TaskCompleted,
    TaskDone,
    TaskFailed,
    Tick,
    Wait,
    WorkerLost,
)
from elasticdl.master.tasks import JobPlan, TaskKind, default_records_per_task
from tests.master.cluster_model import ClusterModel
from tests.master.plans import SEEDS, make_plan, plans


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=plans(most_shards=4),
    num_workers=st.integers(1, 5),
    num_partitions=st.integers(1, 3),
    seed=SEEDS,
    disturbances=st.integers(0, 80),
)
def test_every_minibatch_is_applied_once_by_every_group_whoever_dies(
    plan, num_workers, num_partitions, seed, disturbances
):
    cluster = ClusterModel(plan, num_workers, num_partitions, seed)
    cluster.run(disturbances)
    cluster.check()


@settings(max_examples=300, deadline=None)
@given(plan=plans(most_shards=4), seed=SEEDS, disturbances=st.integers(0, 40))
def test_max_steps_are_exact_under_replay(plan, seed, disturbances):
    cluster = ClusterModel(plan, 3, 2, seed)
    cluster.run(disturbances)
    if plan.max_steps is None:
        return
    undisturbed = ClusterModel(
        make_plan(
            [shard.num_records for shard in plan.shards],
            plan.num_epochs,
            plan.minibatch_size,
            plan.records_per_task,
            None,
        ),
        1,
        1,
        seed,
    )
    undisturbed.run(0)
    available = undisturbed.ledger.steps_done
    assert cluster.ledger.steps_done == min(plan.max_steps, available)


def ledger_in_training(**changes) -> Ledger:
    options = {
        "phases": (TaskKind.TRAINING,),
        "shards": (Shard("a", 20),),
        "minibatch_size": 5,
        "records_per_task": 5,
        "shuffle": False,
    }
    ledger = Ledger(JobPlan(**{**options, **changes}))
    ledger.handle(PartitionStarted(0, 1), 0)
    return ledger


def lease(ledger: Ledger, worker: int, request: int, now: float = 0.0, incarnation: int = 1):
    return ledger.handle(LeaseRequested(worker, incarnation, request), now)[-1]


def test_a_repeated_request_is_answered_with_the_same_grant():
    ledger = ledger_in_training()
    first, again = lease(ledger, 0, 0), lease(ledger, 0, 0)
    assert isinstance(first, Grant)
    assert (again.task.id, again.grant, again.repeated) == (first.task.id, first.grant, True)
    assert ledger.num_leased == 1


def test_a_worker_holds_one_lease_ahead_and_no_more():
    ledger = ledger_in_training()
    assert isinstance(lease(ledger, 0, 0), Grant)
    assert isinstance(lease(ledger, 0, 1), Grant)
    assert isinstance(lease(ledger, 0, 2), Wait)


def test_the_last_tasks_are_not_hoarded():
    ledger = ledger_in_training(shards=(Shard("a", 10),))
    lease(ledger, 0, 0)
    lease(ledger, 1, 0)
    assert isinstance(lease(ledger, 0, 1), Wait)


def test_a_lease_that_nobody_extends_ends_and_one_that_is_held_does_not():
    ledger = ledger_in_training()
    lost, kept = lease(ledger, 0, 0), lease(ledger, 1, 0)
    ledger.handle(LeasesHeld(1, 1, (kept.grant,)), now=25.0)
    actions = ledger.handle(Tick(), now=30.0)
    assert [(type(a), a.task.id) for a in actions] == [(Requeued, lost.task.id)]
    assert lease(ledger, 2, 0, now=30.0).task.id == lost.task.id, "requeued tasks come first"


def test_preemption_never_counts_against_a_task():
    ledger = ledger_in_training(max_task_failures=1)
    task = lease(ledger, 0, 0).task
    for incarnation in range(1, 50):
        actions = ledger.handle(WorkerLost(0, incarnation, "killed by SIGKILL"), 0)
        assert [type(a) for a in actions] == [Requeued]
        assert lease(ledger, 0, 0, incarnation=incarnation + 1).task is task
    assert task.failures == 0


def test_an_exception_of_user_code_counts_once_per_grant():
    ledger = ledger_in_training(max_task_failures=2)
    first = lease(ledger, 0, 0)
    failed = TaskFailed(first.grant, "ValueError: bad record", "Traceback …")
    assert [type(a) for a in ledger.handle(failed, 0)] == [Requeued]
    assert ledger.handle(failed, 0) == []
    second = lease(ledger, 0, 1)
    assert second.task is first.task
    (failure,) = ledger.handle(TaskFailed(second.grant, "ValueError: bad record", "Tb"), 0)
    assert isinstance(failure, JobFailed)
    assert "a, records 0 to 5" in failure.message
    assert failure.traceback == "Tb"
    assert isinstance(lease(ledger, 1, 0), NoMoreTasks)


def test_a_task_closed_at_an_old_incarnation_is_granted_again():
    ledger = ledger_in_training()
    grant = lease(ledger, 0, 0)
    ledger.handle(PartitionStarted(0, 2), 0)
    assert [type(a) for a in ledger.handle(TaskCompleted(grant.task.id, (1,), 1), 0)] == [Requeued]
    assert ledger.num_done == 0
    assert lease(ledger, 1, 0).task is grant.task
    assert isinstance(ledger.handle(TaskCompleted(grant.task.id, (2,), 1), 0)[0], TaskDone)


def test_a_worker_that_lost_its_lease_may_still_complete_the_task():
    ledger = ledger_in_training()
    grant = lease(ledger, 0, 0)
    ledger.handle(Tick(), now=1000.0)
    assert isinstance(ledger.handle(TaskCompleted(grant.task.id, (1,), 1), 1000.0)[0], TaskDone)
    granted = [lease(ledger, worker, 0, 1000.0).task.id for worker in range(1, 4)]
    assert grant.task.id not in granted


def test_a_returned_task_goes_to_the_next_who_asks():
    ledger = ledger_in_training()
    grant = lease(ledger, 0, 0)
    assert [type(a) for a in ledger.handle(GrantsReturned((grant.grant,)), 0)] == [Requeued]
    assert lease(ledger, 1, 0).task is grant.task


def test_phases_follow_each_other_and_hand_on_their_results():
    phases = (TaskKind.INITIALIZE, TaskKind.EVALUATION, TaskKind.SUMMARIZE)
    ledger = Ledger(JobPlan(phases=phases, shards=(Shard("a", 10),), records_per_task=5))
    first = lease(ledger, 0, 0)
    assert first.task.kind is TaskKind.INITIALIZE
    assert isinstance(lease(ledger, 1, 0), Wait)
    actions = ledger.handle(TaskCompleted(first.task.id), 0)
    assert PhaseEnded(TaskKind.INITIALIZE) in actions
    for request, result in ((1, '{"a": 1}'), (2, '{"a": 2}')):
        task = lease(ledger, 0, request).task
        ledger.handle(TaskCompleted(task.id, result=result), 0)
        ledger.handle(TaskCompleted(task.id, result="again"), 0)
    last = lease(ledger, 0, 3).task
    assert last.kind is TaskKind.SUMMARIZE
    assert json.loads(last.payload)["results"] == ['{"a": 1}', '{"a": 2}']
    assert isinstance(ledger.handle(TaskCompleted(last.id), 0)[-1], JobDone)
    assert isinstance(lease(ledger, 0, 4), NoMoreTasks)


@pytest.mark.parametrize("num_records", [1, 63, 64, 4500, 1_000_000])
@pytest.mark.parametrize("num_workers", [1, 2, 16])
def test_tasks_are_whole_minibatches_and_enough_for_all(num_records, num_workers):
    size = default_records_per_task(num_records, 64, num_workers)
    assert size % 64 == 0
    assert size >= 64
    if num_records >= 4 * num_workers * 64:
        assert -(-num_records // size) >= 4 * num_workers
