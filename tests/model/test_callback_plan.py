"""A model's Keras callbacks: which become decisions, which are run, and which cannot be kept."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from elasticdl.callbacks import LearningRateScheduler, MaxStepsStopping, SavedModelExporter
from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.callback_plan import (
    CallbackPlan,
    Measured,
    constant_rate,
    plan_callbacks,
    user_callbacks,
    version_schedule,
)
from elasticdl.model.contract import Contract
from elasticdl.model.keras_api import keras
from tests.model_zoos import MNIST, contract_of

MEASURED = Measured({"loss": "min", "accuracy": "max", "f1": ""}, validates=True)
Callbacks = keras.callbacks


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return contract_of(tmp_path_factory.mktemp("zoo"), MNIST, "MnistElasticDLSpec")


def plan(
    contract: Contract, *callbacks: Any, measured: Measured = MEASURED, num_epochs: int = 4
) -> CallbackPlan:
    contract.callbacks = lambda: list(callbacks)  # type: ignore[method-assign]
    found = plan_callbacks(contract, num_epochs, lambda: measured)
    assert found.users == user_callbacks(contract)
    return found


def test_early_stopping_is_a_decision_of_the_master(contract: Contract) -> None:
    found = plan(
        contract,
        Callbacks.EarlyStopping(
            "val_accuracy",
            min_delta=0.5,
            patience=3,
            baseline=0.1,
            restore_best_weights=True,
            start_from_epoch=2,
        ),
    )
    assert found.users == []
    assert found.configs == [
        {
            "kind": "early_stopping",
            "monitor": "val_accuracy",
            "min_delta": 0.5,
            "patience": 3,
            "mode": "max",
            "baseline": 0.1,
            "start_from_epoch": 2,
            "restore_best_weights": True,
        }
    ]


def test_a_reduction_on_a_plateau_is_one_too(contract: Contract) -> None:
    callback = Callbacks.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.01)
    (config,) = plan(contract, callback).configs
    assert config == {
        "kind": "reduce_lr_on_plateau",
        "monitor": "val_loss",
        "factor": 0.5,
        "patience": 2,
        "min_delta": pytest.approx(1e-4),
        "mode": "min",
        "cooldown": 1,
        "min_lr": 0.01,
    }


def test_the_best_model_is_kept_in_a_directory(contract: Contract, tmp_path: Any) -> None:
    callback = Callbacks.ModelCheckpoint(
        str(tmp_path / "best.keras"), save_best_only=True, initial_value_threshold=0.25
    )
    found = plan(contract, callback)
    assert found.configs == [
        {
            "kind": "best_model",
            "monitor": "val_loss",
            "mode": "min",
            "path": str(tmp_path / "best"),
            "initial_value_threshold": 0.25,
        }
    ]
    assert f"load_model('{tmp_path / 'best'}')" in found.warnings[0]


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [("loss", "auto", "min"), ("val_accuracy", "auto", "max"), ("val_f1", "max", "max")],
)
def test_what_a_monitor_is_meant_to_be_is_resolved_as_keras_does(
    contract: Contract, monitor: str, mode: str, expected: str
) -> None:
    (config,) = plan(contract, Callbacks.EarlyStopping(monitor, mode=mode)).configs
    assert config["mode"] == expected


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda: Callbacks.EarlyStopping("accuracy"),
            "EarlyStopping monitors 'accuracy', which is not measured; "
            "measured are loss, val_loss, val_accuracy, val_f1",
        ),
        (lambda: Callbacks.EarlyStopping("val_f1"), "give mode='min' or mode='max'"),
        (
            lambda: Callbacks.ModelCheckpoint("m-{epoch}.keras", save_best_only=True),
            "without {…}",
        ),
        (
            lambda: Callbacks.ModelCheckpoint("m.keras", save_best_only=True, save_freq=10),
            "--evaluation_steps",
        ),
        (lambda: Callbacks.SwapEMAWeights(), "SwapEMAWeights is not supported"),
        (lambda: Callbacks.LearningRateScheduler(lambda epoch: 1), "must return a float"),
        (lambda: Callbacks.LearningRateScheduler(lambda epoch: -0.1), "a finite number ≥ 0"),
        (
            lambda: Callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
            "LambdaCallback overrides on_train_batch_end",
        ),
    ],
)
def test_what_cannot_be_kept_is_an_error_that_says_what_to_do(
    contract: Contract, callback: Any, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        plan(contract, callback())
    assert message in str(raised.value)
    assert "create_callbacks of 'definition.MnistElasticDLSpec'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_validation_metrics_need_validation_data(contract: Contract) -> None:
    with pytest.raises(UsageError, match="give --validation_data, or monitor loss"):
        plan(contract, Callbacks.EarlyStopping(), measured=Measured({}, validates=False))
    found = plan(contract, Callbacks.EarlyStopping("loss"), measured=Measured({}, False))
    assert found.configs[0]["monitor"] == "loss"


def test_nothing_is_measured_where_nothing_is_monitored(contract: Contract) -> None:
    contract.callbacks = lambda: [Callbacks.CSVLogger("log.csv")]  # type: ignore[method-assign]

    def measure() -> Measured:
        raise AssertionError("it takes a minibatch")

    assert len(plan_callbacks(contract, 1, measure).users) == 1


@pytest.mark.parametrize(
    "hook", ["on_batch_end", "on_train_batch_begin", "on_test_batch_end", "on_predict_end"]
)
def test_hooks_that_nobody_could_call_are_errors(contract: Contract, hook: str) -> None:
    kind = type("Mine", (Callbacks.Callback,), {hook: lambda *args, **kwargs: None})
    with pytest.raises(UsageError, match=f"Mine overrides {hook}"):
        plan(contract, kind())


class Patient(Callbacks.EarlyStopping):
    """The built-in one, with a team's favourite arguments."""

    def __init__(self) -> None:
        super().__init__(patience=7)


class Loud(Callbacks.EarlyStopping):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)


def test_a_subclass_that_changes_no_hook_is_the_built_in_one(contract: Contract) -> None:
    found = plan(contract, Patient())
    assert (found.configs[0]["patience"], found.users) == (7, [])


def test_a_subclass_with_hooks_of_its_own_is_run_unless_it_restores_weights(
    contract: Contract,
) -> None:
    mine = Loud()
    assert plan(contract, mine).users == [mine]
    with pytest.raises(UsageError, match="restore one worker's model"):
        plan(contract, Loud(restore_best_weights=True))


def test_user_callbacks_keep_their_order_and_others_are_left_out_with_a_word(
    contract: Contract,
) -> None:
    first = Callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    second = Callbacks.CSVLogger("log.csv")
    found = plan(
        contract,
        first,
        Callbacks.TensorBoard(),
        Callbacks.ModelCheckpoint("m.keras"),
        Callbacks.TerminateOnNaN(),
        Callbacks.BackupAndRestore("somewhere"),
        second,
    )
    assert found.users == [first, second]
    assert found.configs == []
    words = [warning.split()[1] for warning in found.warnings]
    assert words == ["TensorBoard", "ModelCheckpoint", "BackupAndRestore"]


def test_a_schedule_of_epochs_is_tabulated_as_keras_would_call_it(contract: Contract) -> None:
    halved = Callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    rates = plan(contract, halved).epoch_rates
    expected = [np.float32(0.1) / 2**epoch for epoch in range(4)]
    assert rates == pytest.approx(expected, rel=1e-7)
    by_epoch = Callbacks.LearningRateScheduler(lambda epoch: 1.0 / (1 + epoch))
    assert plan(contract, by_epoch).epoch_rates == pytest.approx([1, 0.5, 1 / 3, 0.25])


def test_a_warm_up_may_begin_at_0_and_no_rate_is_below(contract: Contract) -> None:
    warm_up = Callbacks.LearningRateScheduler(lambda epoch: 0.25 * epoch)
    assert plan(contract, warm_up).epoch_rates == [0.0, 0.25, 0.5, 0.75]
    for bad in (-0.5, float("nan"), float("inf")):
        endless = Callbacks.LearningRateScheduler(dict.fromkeys(range(4), bad).__getitem__)
        with pytest.raises(UsageError, match="for epoch 0; a learning rate is a finite number"):
            plan(contract, endless)


def test_a_schedule_that_keras_cannot_serialize_is_a_schedule(tmp_path: Path) -> None:
    own = """
    class Own(tf.keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 / (1.0 + tf.cast(step, tf.float32))
    """
    given = "tf.keras.optimizers.SGD(Own())"
    code = dedent(MNIST).replace("tf.keras.optimizers.SGD(lr)", given) + dedent(own)
    optimizer = contract_of(tmp_path, code, "MnistElasticDLSpec").create_optimizer()
    assert constant_rate(optimizer) is None
    assert constant_rate(keras.optimizers.SGD(0.25)) == 0.25
    assert constant_rate(keras.optimizers.SGD(lambda: 0.25)) is None


def test_a_schedule_that_raises_is_the_user_s_error(contract: Contract) -> None:
    def schedule(epoch: int, rate: float) -> float:
        raise KeyError("no such epoch")

    with pytest.raises(UserCodeError, match=r"schedule of LearningRateScheduler.*KeyError"):
        plan(contract, Callbacks.LearningRateScheduler(schedule))


def test_two_that_set_the_rate_are_one_too_many(contract: Contract) -> None:
    schedulers = [Callbacks.LearningRateScheduler(lambda epoch: 0.1) for _ in range(2)]
    with pytest.raises(UsageError, match="is there twice"):
        plan(contract, *schedulers)


def test_callbacks_of_elasticdl_s_own(contract: Contract) -> None:
    found = plan(
        contract,
        MaxStepsStopping(30),
        MaxStepsStopping(20),
        LearningRateScheduler(lambda version: 0.1 * 0.5**version),
        SavedModelExporter(),
    )
    assert (found.max_steps, found.users, found.configs) == (20, [], [])
    assert found.version_schedule is not None
    assert found.version_schedule(2) == 0.025
    with pytest.raises(ValueError, match="at least 1"):
        MaxStepsStopping(0)


@pytest.mark.parametrize(
    ("imported", "made"),
    [
        ("from elasticdl.callbacks import LearningRateScheduler", "LearningRateScheduler"),
        ("import elasticdl.callbacks", "elasticdl.callbacks.LearningRateScheduler"),
        ("import elasticdl.callbacks as ours", "type('Own', (ours.LearningRateScheduler,), {})"),
    ],
)
def test_every_worker_finds_the_schedule_however_the_class_is_reached(
    tmp_path: Path, imported: str, made: str
) -> None:
    spec = f"""
        def create_callbacks(self):
            {imported}

            return [{made}(lambda version: 0.5**version)]
    """
    contract = contract_of(tmp_path, MNIST + spec, "MnistElasticDLSpec")
    schedule = version_schedule(contract)
    assert schedule is not None
    assert schedule(3) == 0.125
