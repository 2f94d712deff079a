"""What is told of a job's speed while it trains again what a loss cost."""

from __future__ import annotations

import pytest

from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.exits import End
from elasticdl.master.history import History
from elasticdl.master.history_keeper import HistoryKeeper
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_figures import JobFigures
from elasticdl.master.journal import Journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.master.vitals import JobVitals
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import Masters

PLAN = JobPlan(
    phases=(TaskKind.TRAINING,), shards=(Shard("a", 40),), records_per_task=10, num_epochs=2
)


def test_what_is_trained_again_after_a_loss_is_speed_and_takes_time(tmp_path):
    spec = JobSpec(command="train", job_name="mine", job_dir=str(tmp_path), model_def="a.B")
    spec.model_copy(update={"model_zoo": "z", "data": "d", "output": "o"}).save(tmp_path)
    masters = Masters(tmp_path, PLAN)
    masters.next()
    coordinator = masters.coordinator
    at = 1000.0
    (tmp_path / "kept").mkdir()
    kept = Journal(tmp_path / "kept")
    keeper = HistoryKeeper(
        coordinator,
        JobVitals(),
        History(kept),
        JobFigures(tmp_path / "figures.json"),
        1,
        clock=lambda: at,
    )
    requests = iter(range(100))

    def train(incarnation: int) -> None:
        task = coordinator.lease(WORKER, next(requests)).task
        coordinator.report(ledger_events.TaskCompleted(task.id, (incarnation,), 1))

    coordinator.register(Registered(PS, "here:1", 1))
    coordinator.register(Registered(WORKER, "", 2))
    keeper.look()
    for _ in range(3):
        train(1)
    at += 1
    keeper.look()
    assert keeper.records_per_s == pytest.approx(30)
    masters.backend.tell(InstanceEnded(PS, End.of_exit_code(-9)))
    following = InstanceSpec(Role.PS, 0, 2)
    coordinator.register(Registered(following, "here:2", 3, True, ((0, 1),)))
    at += 400
    keeper.look()
    assert keeper.records_per_s == 0
    assert keeper.stands_still_s == 400
    now = coordinator.snapshot()
    assert (now.records_done, now.records_repeated) == (30, 0)
    assert (now.tasks_to_repeat, now.records_to_repeat) == (2, 20)
    health = [one["text"] for one in DirectorySource(tmp_path).state()["health"]]
    assert "2 tasks are trained again after a loss" in health
    train(2)
    at += 1
    keeper.look()
    now = coordinator.snapshot()
    assert (now.records_done, now.records_repeated, now.records_to_repeat) == (30, 10, 10)
    assert keeper.records_per_s == pytest.approx(10)
    assert keeper.stands_still_s == 0
    train(2)
    train(2)
    now = coordinator.snapshot()
    assert (now.records_done, now.records_repeated, now.records_to_repeat) == (40, 20, 0)
    masters.kill()
    kept.close()
