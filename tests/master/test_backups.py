"""Stragglers: what one worker is stuck with is leased to a second one, which is said."""

from __future__ import annotations

import dataclasses

import pytest

from elasticdl.data import example
from elasticdl.data.recordio import Writer
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master.ledger_events import (
    Grant,
    LeaseRequested,
    PartitionStarted,
    Straggler,
    TaskCompleted,
    Wait,
)
from elasticdl.master.plan import make_plan
from elasticdl.master.recorded_ledger import RecordedLedger
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.master import plans
from tests.master.restart_model import RestartModel


def stuck(plan: JobPlan) -> RecordedLedger:
    """Worker 0 does four tasks, half a second each, and holds the next one from second 2 on."""
    recorded = RecordedLedger(plan)
    recorded.handle(PartitionStarted(0, 1), 0.0)
    now = 0.0
    for request in range(5):
        (*_, grant), _ = recorded.handle(LeaseRequested(0, 1, request), now)
        if request < 4:
            now += 0.5
            recorded.handle(TaskCompleted(grant.task.id, (1,), 1), now)
    return recorded


PLAN = JobPlan(
    phases=(TaskKind.TRAINING,),
    shards=(Shard("a", 50),),
    minibatch_size=10,
    records_per_task=10,
    shuffle=False,
    backups=True,
)


def test_a_second_lease_says_that_it_is_one_and_why():
    recorded = stuck(PLAN)
    (*_, answer), _ = recorded.handle(LeaseRequested(1, 1, 0), 3.9)
    assert isinstance(answer, Wait), "twice as long as its peers, and not less than two seconds"
    (*_, answer), notes = recorded.handle(LeaseRequested(1, 1, 1), 10.0)
    assert isinstance(answer, Grant)
    assert (answer.task.id, answer.straggler) == (4, Straggler(0, 8.0, 0.5))
    (note,) = [one for one in notes if one.kind == "granted"]
    assert note.body["straggler"] == {"worker": 0, "held_s": 8.0, "usual_s": 0.5}
    assert note.text == (
        "task 4 is leased to worker 1 as well: worker 0 has held it for 8.0 s, its peers take 0.5 s"
    )
    (*_, answer), _ = recorded.handle(LeaseRequested(2, 1, 0), 20.0)
    assert isinstance(answer, Wait), "to two, not to three"


def test_a_first_lease_is_told_to_nobody():
    recorded = RecordedLedger(PLAN)
    recorded.handle(PartitionStarted(0, 1), 0.0)
    _, notes = recorded.handle(LeaseRequested(0, 1, 0), 0.0)
    (note,) = [one for one in notes if one.kind == "granted"]
    assert note.text == ""
    assert "straggler" not in note.body


def test_tasks_that_wait_for_the_one_that_is_stuck_do_not_keep_it_from_a_second_lease():
    # Of seven steps four are done and two held: how many the sixth task has is not known yet.
    changes = {"shards": (Shard("a", 66),), "records_per_task": 11, "max_steps": 7}
    recorded = stuck(dataclasses.replace(PLAN, **changes))
    (*_, answer), _ = recorded.handle(LeaseRequested(1, 1, 0), 10.0)
    assert recorded.ledger.num_todo == 1
    assert isinstance(answer, Grant)
    assert answer.task.id == 4


@pytest.mark.parametrize("consistency", ["async", "sync"])
def test_jobs_that_train_asynchronously_lease_stragglers_twice(tmp_path, consistency):
    with Writer(tmp_path / "a.recordio") as writer:
        writer.write(example.encode({"x": 1}))
    options = {"job_dir": str(tmp_path), "data": str(tmp_path / "*.recordio")}
    spec = JobSpec(command="train", consistency=consistency, **options)
    assert make_plan(spec).backups == (consistency == "async")
    assert not make_plan(JobSpec(command="evaluate", **options)).backups


def test_random_schedules_have_second_leases():
    class Counting(RestartModel):
        second = 0

        def begin(self, task, grant):
            self.second += len(self.ledger.holders(task.id)) > 1
            return super().begin(task, grant)

    found = 0
    for seed in range(20):
        plan = plans.make_plan([60, 40], 2, 3, 20, None)
        cluster = Counting(dataclasses.replace(plan, checkpoints=True), 4, 2, seed)
        cluster.run(30)
        cluster.check()
        found += cluster.second
    assert found > 20
