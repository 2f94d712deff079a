"""tf_keras's optimizers: read as Keras 3's are, and the dense updates are tf_keras's own."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tf_keras import optimizers

from elasticdl.errors import UsageError
from elasticdl.model.user_optimizer import UserOptimizer
from elasticdl.ps.optimizers import apply_dense

legacy = optimizers.legacy
MAKERS = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "adam": lambda: optimizers.Adam(0.1, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.1, momentum=0.5),
    "adadelta": lambda: optimizers.Adadelta(0.1),
    "adamax": lambda: optimizers.Adamax(0.1),
    "nadam": lambda: optimizers.Nadam(0.1),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lion": lambda: optimizers.Lion(0.1),
    "legacy sgd": lambda: legacy.SGD(0.1, momentum=0.9),
    "legacy adam": lambda: legacy.Adam(0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_dense_updates_are_those_of_tf_keras(name: str) -> None:
    config = UserOptimizer(MAKERS[name]()).config
    rng = np.random.default_rng(1)
    weights = rng.normal(size=20).astype(np.float32)
    slots = np.array(
        [np.full(20, config.initial_slot_value(slot)) for slot in range(config.num_slots)],
        np.float32,
    ).reshape(config.num_slots, 20)
    variable, optimizer = tf.Variable(weights), MAKERS[name]()
    for step in range(6):
        gradients = rng.normal(size=20).astype(np.float32)
        optimizer.apply_gradients([(tf.constant(gradients), variable)])
        apply_dense(config, weights, slots, gradients, config.learning_rate, step + 1)
        np.testing.assert_allclose(weights, variable.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", [optimizers, legacy])
def test_schedules_are_tabulated_and_decay_is_an_error(module) -> None:
    schedule = optimizers.schedules.ExponentialDecay(0.1, 100, 0.9)
    user = UserOptimizer(module.SGD(schedule))
    assert user.config.schedule == "ExponentialDecay"
    steps = np.array([0, 7, 999])
    np.testing.assert_allclose(user.rates(1)[steps], 0.1 * 0.9 ** ((1000 + steps) / 100), rtol=1e-5)
    with pytest.raises(UsageError, match=r"decay=0\.5.*InverseTimeDecay"):
        UserOptimizer(legacy.SGD(0.1, decay=0.5))


def test_weight_decay_is_excluded_by_name_where_there_is_any() -> None:
    kernel, bias = tf.Variable(1.0, name="kernel"), tf.Variable(1.0, name="bias")
    optimizer = optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias", "users"])
    user = UserOptimizer(optimizer)
    assert [user.decays(kernel), user.decays(bias)] == [True, False]
    assert [user.decays_table("items"), user.decays_table("users")] == [True, False]
    assert UserOptimizer(legacy.Adam()).decays(bias)
