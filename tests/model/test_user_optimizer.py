"""The user's optimizer: schedules as Keras computes them, exclusions, and what is refused."""

from __future__ import annotations

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.user_optimizer import UserOptimizer

schedules = keras.optimizers.schedules


class Halving(schedules.LearningRateSchedule):
    """Decides in Python, and cannot be serialized."""

    def __call__(self, step):
        return 0.5 if int(step) < 1500 else 0.25


class Exploding(schedules.LearningRateSchedule):
    def __call__(self, step):
        return 1.0 / tf.cast(7 - step, tf.float32)


class Raising(schedules.LearningRateSchedule):
    def __call__(self, step):
        raise KeyError("warmup")


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ExponentialDecay(0.1, 100, 0.9),
        schedules.ExponentialDecay(0.1, 100, 0.9, staircase=True),
        schedules.PiecewiseConstantDecay([300, 1700], [0.1, 0.01, 0.001]),
        schedules.PolynomialDecay(0.1, 1500, 0.001, power=2.0),
        schedules.InverseTimeDecay(0.1, 10, 0.5),
        schedules.CosineDecay(0.1, 1500, warmup_target=0.5, warmup_steps=100),
        schedules.CosineDecayRestarts(0.1, 600),
        Halving(),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_rates_are_those_that_keras_would_use(schedule) -> None:
    ours = UserOptimizer(keras.optimizers.Adam(schedule))
    theirs = keras.optimizers.Adam(schedule)
    assert ours.config.schedule == type(schedule).__name__
    for step in (0, 1, 99, 100, 300, 301, 999, 1000, 1499, 1500, 1999):
        theirs.iterations.assign(step)
        rate = ours.rates(step // 1000)[step % 1000]
        assert rate == pytest.approx(float(theirs.learning_rate), rel=1e-6)
    assert ours.config.learning_rate == ours.rates(0)[0]
    assert ours.rates(1).dtype == np.float32


def test_functions_are_schedules_too_with_the_step_or_without() -> None:
    optimizer = keras.optimizers.SGD(lambda: 0.1 / (1.0 + tf.cast(optimizer.iterations, "float32")))
    rates = UserOptimizer(optimizer).rates(2)
    np.testing.assert_allclose(rates, 0.1 / np.arange(2001, 3001), rtol=1e-6)

    def constant() -> float:
        return 0.25

    user = UserOptimizer(keras.optimizers.SGD(constant))
    assert (user.config.schedule, user.config.learning_rate) == ("constant", 0.25)


def test_a_number_is_no_schedule() -> None:
    config = UserOptimizer(keras.optimizers.SGD(0.25)).config
    assert (config.schedule, config.learning_rate) == ("", 0.25)


def test_a_schedule_that_gives_no_number_is_an_error_that_names_the_step() -> None:
    with pytest.raises(UsageError, match="'Exploding': gives inf at step 7"):
        UserOptimizer(keras.optimizers.SGD(Exploding()))


def test_a_schedule_that_raises_is_the_users_error() -> None:
    with pytest.raises(UserCodeError, match="'Raising': KeyError") as raised:
        UserOptimizer(keras.optimizers.SGD(Raising()))
    assert "warmup" in raised.value.traceback_text


def test_an_optimizer_of_the_users_own_is_refused_whatever_its_name() -> None:
    own = type("Adam", (keras.optimizers.Adam,), {"__module__": "zoo"})
    with pytest.raises(UsageError, match=r"'Adam': is a class of your own.*use SGD, "):
        UserOptimizer(own())


def test_exclusions_from_weight_decay_are_those_of_keras_for_variables_and_tables() -> None:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="out")])
    kernel, bias = model.trainable_variables
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "user"])
    user = UserOptimizer(optimizer)
    assert user.decays(kernel)
    assert not user.decays(bias)
    assert not user.decays_table("users")
    assert user.decays_table("items")
    by_variable = keras.optimizers.AdamW()
    by_variable.exclude_from_weight_decay(var_list=[kernel])
    assert not UserOptimizer(by_variable).decays(kernel)
    assert UserOptimizer(by_variable).decays(bias)
    assert UserOptimizer(by_variable).decays_table("items")
    assert math.isclose(UserOptimizer(by_variable).config.weight_decay, 0.004)
