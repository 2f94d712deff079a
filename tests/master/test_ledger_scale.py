"""What the ledger does for one event does not grow with the number of tasks."""

from __future__ import annotations

import pytest

from elasticdl.data.shards import Shard
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Grant,
    LeaseRequested,
    PartitionStarted,
    TaskCompleted,
    Wait,
)
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.master.work import instructions_of


def work_of_one_task(num_tasks: int, lanes: int, max_steps: int | None) -> int:
    plan = JobPlan(
        (TaskKind.INITIALIZE, TaskKind.TRAINING),
        (Shard("data", num_tasks),),
        minibatch_size=1,
        records_per_task=1,
        lanes=lanes,
        max_steps=max_steps,
    )
    ledger = Ledger(plan)
    ledger.handle(PartitionStarted(0, 1), 0.0)

    def one_task(request: int, worker: int = 0) -> None:
        *_, answer = ledger.handle(LeaseRequested(worker, 1, request), 0.0)
        assert isinstance(answer, Grant)
        ledger.handle(TaskCompleted(answer.task.id, (1,), 1), 0.0)

    one_task(0)
    return instructions_of(lambda: one_task(1))


@pytest.mark.parametrize(("lanes", "limited"), [(0, False), (0, True), (4, False)])
def test_a_lease_and_its_completion_cost_the_same_among_many_tasks(lanes, limited):
    few = work_of_one_task(100, lanes, 90 if limited else None)
    many = work_of_one_task(10_000, lanes, 9_000 if limited else None)
    assert many <= 1.1 * few


def test_workers_that_wait_ask_no_more_often_in_all_the_more_of_them_there_are():
    ledger = Ledger(JobPlan((TaskKind.INITIALIZE,), ()))
    workers = 10_000
    *_, first = ledger.handle(LeaseRequested(0, 1, 0), 0.0)
    assert isinstance(first, Grant)
    retries = [ledger.handle(LeaseRequested(one, 1, 0), 0.0)[-1] for one in range(1, workers)]
    assert isinstance(retries[0], Wait)
    assert retries[0].retry_after_s <= 0.1
    assert isinstance(retries[-1], Wait)
    assert workers / retries[-1].retry_after_s <= 1000
