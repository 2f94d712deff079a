"""Evaluation rounds and callbacks' decisions, under random schedules and one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.data.shards import Shard
from elasticdl.master.decisions import Decisions
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Decided,
    Evaluated,
    Grant,
    JobDone,
    LeaseRequested,
    PartitionStarted,
    TaskCompleted,
    Tick,
    Wait,
    WorkerLost,
)
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, TaskKind
from tests.master.cluster_model import ClusterModel
from tests.master.plans import SCHEDULES, SEEDS, make_plan, plans

STOPPING = {
    "kind": "early_stopping",
    "monitor": "val_loss",
    "mode": "min",
    "patience": 1,
    "restore_best_weights": True,
}


@settings(max_examples=600, deadline=None)
@given(
    plan=plans(
        most_epochs=4,
        most_steps=None,
        most_lanes=4,
        validation=st.integers(0, 30),
        evaluation=SCHEDULES,
    ),
    num_workers=st.integers(1, 4),
    seed=SEEDS,
    disturbances=st.integers(0, 60),
    stops=st.sampled_from(["", "loss", "val_loss"]),
    user_callbacks=st.booleans(),
)
def test_every_round_counts_the_validation_data_once_and_training_loses_nothing(
    plan, num_workers, seed, disturbances, stops, user_callbacks
):
    cluster = ClusterModel(plan, num_workers, 2, seed)
    if stops or user_callbacks:
        cluster.initialized = {
            "callbacks": [{**STOPPING, "monitor": stops}] if stops else [],
            "user_callbacks": user_callbacks,
        }
    cluster.run(disturbances)
    cluster.check()
    expected = {
        f"held-out {start}:{min(start + plan.records_per_task, shard.num_records)}"
        for shard in plan.validation_shards
        for start in range(0, shard.num_records, plan.records_per_task)
    }
    assert bool(cluster.rounds) == bool(plan.validation_shards)
    for counted in cluster.rounds.values():
        assert counted == dict.fromkeys(expected, 1)
    told = [one for one in cluster.told if not one.startswith("evaluation")]
    if not user_callbacks:
        assert not cluster.told
        return
    epochs = 1 + max(task.epoch for task in cluster.tasks.values() if task.granted)
    pairs = [(f"epoch_begin {e}", f"epoch_end {e}") for e in range(epochs)]
    assert told == ["train_begin", *(one for pair in pairs for one in pair), "train_end"]


class Job:
    """One worker that does whatever it is granted, at once."""

    def __init__(self, plan: JobPlan, initialized: dict | None = None, losses=()) -> None:
        self.ledger = Ledger(plan)
        self.ledger.handle(PartitionStarted(0, 1), 0.0)
        self.initialized = initialized or {}
        self.losses = iter(losses)
        self.actions: list = []
        self.granted: list = []
        self.request = 0

    def grant(self, now: float = 0.0, worker: int = 0):
        *before, answer = self.ledger.handle(LeaseRequested(worker, 1, self.request), now)
        self.actions += before
        self.request += 1
        if isinstance(answer, Grant):
            self.granted.append(answer.task)
        return answer

    def complete(self, task, now: float = 0.0) -> None:
        result = ""
        if task.kind is TaskKind.INITIALIZE:
            result = json.dumps(self.initialized)
        if task.kind is TaskKind.SUMMARIZE:
            loss = next(self.losses, 0.0)
            result = json.dumps({"metrics": {"loss": loss}, "logs": {"val_loss": loss}})
        steps = -(-task.num_records // self.ledger.plan.minibatch_size)
        event = TaskCompleted(task.id, (1,), steps, result)
        self.actions += self.ledger.handle(event, now)

    def run(self) -> None:
        while not self.ledger.finished:
            answer = self.grant()
            assert isinstance(answer, Grant), answer
            self.complete(answer.task)

    def of(self, kind) -> list:
        return [action for action in self.actions if isinstance(action, kind)]


def plan(**options) -> JobPlan:
    defaults = {
        "shard_sizes": [20],
        "num_epochs": 3,
        "minibatch_size": 5,
        "records_per_task": 10,
        "max_steps": None,
        "validation": 10,
        "evaluation": EvaluationSchedule(epochs=1),
    }
    return make_plan(**{**defaults, **options})


def test_an_evaluation_follows_every_epoch_and_none_comes_twice_at_the_end():
    job = Job(plan())
    job.run()
    assert [(one.round.epoch, one.round.steps) for one in job.of(Evaluated)] == [
        (0, 4),
        (1, 8),
        (2, 12),
    ]


def test_a_pin_is_over_with_its_round_and_never_before():
    job = Job(plan())
    pinned = []
    while not job.ledger.finished:
        task = job.grant().task
        pinned += [task.pin] if task.kind is TaskKind.PIN else []
        assert not task.pin or task.pin > job.ledger.rounds.over
        job.complete(task)
    assert len(pinned) == 3
    assert job.ledger.rounds.over == pinned[-1]


def test_every_second_epoch_and_always_at_the_end():
    job = Job(plan(evaluation=EvaluationSchedule(epochs=2)))
    job.run()
    assert [one.round.epoch for one in job.of(Evaluated)] == [1, 2]


def test_evaluations_by_steps_do_not_stop_training():
    job = Job(plan(num_epochs=1, shard_sizes=[100], evaluation=EvaluationSchedule(steps=4)))
    job.complete(job.grant().task)
    job.complete(job.grant().task)
    first = job.grant().task
    job.complete(first)
    assert first.kind is TaskKind.TRAINING
    pin = job.grant().task
    assert pin.kind is TaskKind.PIN
    assert job.grant().task.kind is TaskKind.TRAINING, "training goes on while a pin is made"
    job.complete(pin)
    evaluation = job.grant().task
    assert (evaluation.kind, evaluation.pin) == (TaskKind.EVALUATION, pin.pin)


def test_evaluations_by_seconds():
    ledger = Job(plan(num_epochs=1, evaluation=EvaluationSchedule(secs=60.0)))
    ledger.complete(ledger.grant().task)
    ledger.complete(ledger.grant().task)
    ledger.ledger.handle(Tick(), 59.0)
    assert ledger.ledger.rounds.current is None
    ledger.ledger.handle(Tick(), 60.0)
    assert ledger.ledger.rounds.current is not None


def test_early_stopping_stops_where_keras_does():
    losses = [1.0, 0.5, 0.4, 0.6, 0.7, 0.1]
    job = Job(plan(num_epochs=9), {"callbacks": [{**STOPPING, "patience": 2}]}, losses)
    job.run()
    assert [one.round.logs["val_loss"] for one in job.of(Evaluated)] == losses[:-1]
    kept = [task for task in job.granted if task.kind is TaskKind.EXPORT]
    first, second, third = (task.pin for task in kept[:3])
    # The one before stays until the master knows that its successor is there.
    assert [json.loads(task.payload) for task in kept] == [
        {"pin": first, "path": f"best-{first}"},
        {"pin": second, "path": f"best-{second}"},
        {"pin": third, "path": f"best-{third}", "replaces": f"best-{first}"},
        {"copy": f"best-{third}"},
    ]


def test_callbacks_do_not_hold_up_evaluations_by_steps_or_seconds():
    stopping = {"callbacks": [{**STOPPING, "patience": 99, "restore_best_weights": False}]}
    for schedule in (EvaluationSchedule(steps=6), EvaluationSchedule(secs=50.0)):
        job = Job(plan(num_epochs=6, evaluation=schedule), stopping)
        now = 0.0
        while not job.ledger.finished:
            answer = job.grant(now)
            if isinstance(answer, Grant):
                trains = answer.task.kind is TaskKind.TRAINING
                now += 10.0 if trains else 0.0
                job.complete(answer.task, now)
        evaluations = [one.round.steps for one in job.of(Evaluated) if one.round.evaluates]
        assert len(evaluations) >= 3, schedule
        assert evaluations[-1] == 24


def test_a_model_that_is_kept_is_measured():
    job = Job(plan(evaluation=EvaluationSchedule()), {"callbacks": [{**STOPPING, "patience": 9}]})
    job.run()
    assert [one.round.evaluates for one in job.of(Evaluated)] == [True, True, True]


def test_an_epochs_end_is_told_what_was_measured_of_the_same_state():
    initialized = {"user_callbacks": True}
    job = Job(plan(num_epochs=1, evaluation=EvaluationSchedule(steps=4)), initialized, [0.25])
    job.run()
    told = [
        event
        for task in job.granted
        if task.kind is TaskKind.CALLBACKS
        for event in json.loads(task.payload)["events"]
        if event["event"] == "epoch_end"
    ]
    assert [event["logs"]["val_loss"] for event in told] == [0.25]


def test_a_rate_of_0_is_a_rate():
    job = Job(plan(validation=0, num_epochs=2), {"epoch_rates": [0.0, 0.1]})
    job.run()
    rates = {t.epoch: t.learning_rate for t in job.granted if t.kind is TaskKind.TRAINING}
    assert rates == {0: 0.0, 1: 0.1}


def test_a_rate_by_epoch_holds_again_after_one_that_was_decided_as_in_keras():
    config = {"kind": "reduce_lr_on_plateau", "monitor": "val_loss", "mode": "min"}
    decisions = Decisions.of_initialize(
        json.dumps(
            {
                "learning_rate": 0.4,
                "epoch_rates": [0.1, 0.08, 0.06],
                "callbacks": [{**config, "patience": 1, "factor": 0.5}],
            }
        ),
        "best",
    )
    assert not decisions.decide(0, {"val_loss": 1.0})
    assert decisions.rate_of(1) == 0.08
    (lowered,) = decisions.decide(1, {"val_loss": 1.0})
    assert lowered.value == pytest.approx(0.04)
    assert decisions.rate_of(1) == pytest.approx(0.04)
    assert decisions.rate_of(2) == 0.06


def test_keras_itself_decides_the_same_about_random_losses():
    keras = pytest.importorskip("keras")
    import random

    for seed in range(100):
        chance = random.Random(seed)
        losses = [chance.choice([1.0, 0.9, 0.8, 0.5, 0.49]) for _ in range(12)]
        patience, cooldown = chance.randrange(4), chance.randrange(3)
        delta, baseline = chance.choice([0.0, 0.05]), chance.choice([None, 0.85])
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1.0), "mse")
        stopping = keras.callbacks.EarlyStopping(
            min_delta=delta, patience=patience, baseline=baseline, mode="min"
        )
        plateau = keras.callbacks.ReduceLROnPlateau(
            factor=0.5,
            patience=patience,
            cooldown=cooldown,
            min_delta=delta,
            min_lr=0.1,
            mode="min",
        )
        config = {"monitor": "val_loss", "mode": "min", "patience": patience, "min_delta": delta}
        ours = Decisions.of_initialize(
            json.dumps(
                {
                    "learning_rate": 1.0,
                    "callbacks": [
                        {**config, "kind": "early_stopping", "baseline": baseline},
                        {
                            **config,
                            "kind": "reduce_lr_on_plateau",
                            "factor": 0.5,
                            "cooldown": cooldown,
                            "min_lr": 0.1,
                        },
                    ],
                }
            ),
            "best",
        )
        for callback in (stopping, plateau):
            callback.set_model(model)
            callback.on_train_begin()
        for epoch, loss in enumerate(losses):
            for callback in (stopping, plateau):
                callback.on_epoch_end(epoch, {"val_loss": loss})
            decided = {one.kind for one in ours.decide(epoch, {"val_loss": loss})}
            assert ("stop" in decided) == bool(getattr(model, "stop_training", False)), (
                seed,
                epoch,
            )
            rate = float(model.optimizer.learning_rate)
            assert ours.current_rate(epoch) == pytest.approx(rate), (seed, epoch)
            if "stop" in decided:
                break


def test_a_decided_rate_is_bound_to_tasks_granted_after_it():
    config = {"kind": "reduce_lr_on_plateau", "monitor": "val_loss", "mode": "min"}
    initialized = {"learning_rate": 0.4, "callbacks": [{**config, "patience": 1, "factor": 0.5}]}
    job = Job(plan(num_epochs=4), initialized, [1.0, 1.0, 1.0, 1.0])
    job.run()
    rates = {t.epoch: t.learning_rate for t in job.granted if t.kind is TaskKind.TRAINING}
    assert rates == {0: None, 1: None, 2: 0.2, 3: 0.1}
    assert [one.decision.value for one in job.of(Decided)] == [0.2, 0.1, 0.05]


def test_a_rate_by_epoch_is_bound_to_its_epochs_tasks():
    job = Job(plan(validation=0), {"learning_rate": 0.4, "epoch_rates": [0.3, 0.2, 0.1]})
    job.run()
    rates = {t.epoch: t.learning_rate for t in job.granted if t.kind is TaskKind.TRAINING}
    assert rates == {0: 0.3, 1: 0.2, 2: 0.1}


def test_a_callbacks_own_decisions_are_decisions():
    job = Job(plan(validation=0), {"user_callbacks": True, "learning_rate": 0.4})
    while not job.ledger.finished:
        task = job.grant().task
        if task.kind is TaskKind.CALLBACKS and "epoch_end" in task.payload:
            done = TaskCompleted(task.id, (1,), result='{"stop": true, "learning_rate": 0.1}')
            job.actions += job.ledger.handle(done, 0.0)
        else:
            job.complete(task)
    assert {t.epoch for t in job.granted if t.kind is TaskKind.TRAINING} == {0}
    assert [one.decision.kind for one in job.of(Decided)] == ["learning_rate", "stop"]
    assert job.of(JobDone)


def test_callbacks_run_in_one_worker_while_it_lives():
    job = Job(plan(validation=0), {"user_callbacks": True})
    job.complete(job.grant(worker=1).task)
    begin = job.grant(worker=1).task
    assert begin.kind is TaskKind.CALLBACKS
    job.complete(begin)
    for _ in range(2):
        job.complete(job.grant(worker=0).task)
    assert job.grant(worker=0).task.kind is TaskKind.SUMMARIZE
    job.complete(job.granted[-1])
    assert isinstance(job.grant(worker=0), Wait)
    job.ledger.handle(WorkerLost(1, 1, "killed"), 0.0)
    assert job.grant(worker=0).task.kind is TaskKind.CALLBACKS


def test_a_lane_is_an_equal_part_of_the_epoch():
    from elasticdl.master.lanes import carve_lanes

    shards = (Shard("a", 103), Shard("b", 40))
    one = JobPlan((TaskKind.TRAINING,), shards, minibatch_size=5, records_per_task=20, lanes=3)
    tasks = list(carve_lanes(shards, 0, 7, one))
    assert [task.id for task in tasks] == list(range(7, 7 + len(tasks)))
    records = sorted(
        (task.shard, record) for task in tasks for record in range(task.start, task.end)
    )
    assert records == [("a", i) for i in range(103)] + [("b", i) for i in range(40)]
    lanes: dict[int, list] = {}
    for task in tasks:
        lanes.setdefault(task.lane.lane, []).append(task)
    steps = [sum(-(-t.num_records // 5) for t in lane) for lane in lanes.values()]
    assert sum(steps) == 21 + 8
    assert max(steps) - min(steps) <= 1
    for lane in lanes.values():
        assert [t.lane.position for t in lane] == list(range(len(lane)))
        assert [t.lane.last for t in lane] == [False] * (len(lane) - 1) + [True]
