"""The parameter servers update as tf_keras's optimizers do, the legacy ones included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_keras import optimizers

from elasticdl.errors import UsageError
from elasticdl.model.keras_api import optimizer_config
from elasticdl.model.user_optimizer import UserOptimizer
from elasticdl.ps.keras_optimizers import from_keras_config
from elasticdl.ps.optimizers import apply_dense

legacy = optimizers.legacy
FTRL = {
    "l1_regularization_strength": 0.01,
    "l2_regularization_strength": 0.02,
    "l2_shrinkage_regularization_strength": 0.03,
    "beta": 0.1,
}
CASES: list[tuple[Any, dict[str, Any]]] = [
    *((kind.SGD, {}) for kind in (optimizers, legacy)),
    *((kind.SGD, {"momentum": 0.9}) for kind in (optimizers, legacy)),
    *((kind.SGD, {"momentum": 0.9, "nesterov": True}) for kind in (optimizers, legacy)),
    *((kind.Adagrad, {}) for kind in (optimizers, legacy)),
    *((kind.Adam, {}) for kind in (optimizers, legacy)),
    *((kind.Adam, {"amsgrad": True, "epsilon": 1e-2}) for kind in (optimizers, legacy)),
    *((kind.RMSprop, {"momentum": 0.5}) for kind in (optimizers, legacy)),
    *((kind.RMSprop, {"momentum": 0.5, "centered": True}) for kind in (optimizers, legacy)),
    *((kind.Ftrl, FTRL) for kind in (optimizers, legacy)),
    *((kind.Adadelta, {}) for kind in (optimizers, legacy)),
    *((kind.Adamax, {}) for kind in (optimizers, legacy)),
    (optimizers.Nadam, {}),
    (optimizers.Adagrad, {"epsilon": 1e-2, "initial_accumulator_value": 0.0}),
    (optimizers.RMSprop, {}),
    (optimizers.AdamW, {}),
    (optimizers.Lion, {}),
]


def name_of(value: object) -> str | None:
    if isinstance(value, type):
        return f"{'legacy.' if issubclass(value, legacy.Optimizer) else ''}{value.__name__}"
    return None


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_each_step_is_that_of_tf_keras(
    kind: Callable[..., Any], options: dict[str, Any], scale: float
) -> None:
    optimizer = kind(0.01, **options)
    config = from_keras_config(*optimizer_config(optimizer))
    rng = np.random.default_rng(0)
    weights = rng.normal(size=50).astype(np.float32)
    slots = np.zeros((config.num_slots, 50), np.float32)
    for slot in range(config.num_slots):
        slots[slot] = config.initial_slot_value(slot)
    variable = tf.Variable(weights)
    for iteration in range(1, 8):
        gradients = (rng.normal(size=50) * scale).astype(np.float32)
        optimizer.apply_gradients([(tf.constant(gradients), variable)])
        apply_dense(config, weights, slots, gradients, config.learning_rate, iteration)
        np.testing.assert_allclose(weights, variable.numpy(), rtol=0, atol=1e-6 * iteration)


@pytest.mark.parametrize(
    ("optimizer", "instead"),
    [
        (lambda: legacy.RMSprop(0.01), "tf.keras.optimizers.RMSprop"),
        (lambda: legacy.RMSprop(0.01, centered=True), "tf.keras.optimizers.RMSprop"),
        (lambda: legacy.Adagrad(0.01, epsilon=1e-2), "tf.keras.optimizers.Adagrad"),
        (lambda: legacy.Adagrad(0.01, 0.0), "tf.keras.optimizers.Adagrad"),
        (lambda: legacy.Nadam(0.01), "tf.keras.optimizers.Nadam"),
        (lambda: legacy.SGD(0.01, decay=1e-4), "InverseTimeDecay"),
    ],
)
def test_what_updates_otherwise_names_what_to_use(
    optimizer: Callable[[], Any], instead: str
) -> None:
    with pytest.raises(UsageError, match=instead):
        from_keras_config(*optimizer_config(optimizer()))


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
