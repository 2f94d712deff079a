"""The parameter server's optimizers against Keras's own, and the lazy ones against references."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elasticdl.errors import UsageError
from elasticdl.ps.optimizers import OptimizerConfig, apply_dense, apply_rows

TOLERANCE = 1e-6
few_examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32 - 1)
learning_rates = st.floats(1e-4, 0.1)
momenta = st.floats(0.01, 1.0)
num_steps = st.integers(1, 8)

sgd = st.builds(OptimizerConfig, name=st.just("sgd"), learning_rate=learning_rates)
momentum_sgd = st.builds(
    OptimizerConfig,
    name=st.just("sgd"),
    learning_rate=learning_rates,
    momentum=momenta,
    nesterov=st.booleans(),
)
adagrad = st.builds(
    OptimizerConfig,
    name=st.just("adagrad"),
    learning_rate=learning_rates,
    initial_accumulator_value=st.floats(0.0, 1.0),
    epsilon=st.floats(1e-8, 1e-3),
)
adam = st.builds(
    OptimizerConfig,
    name=st.just("adam"),
    learning_rate=learning_rates,
    beta_1=st.floats(0.0, 0.99),
    beta_2=st.floats(0.5, 0.9999),
    epsilon=st.floats(1e-8, 1e-3),
)


def keras_optimizer(config: OptimizerConfig) -> Any:
    rate = config.learning_rate
    if config.name == "sgd":
        return keras.optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "adagrad":
        return keras.optimizers.Adagrad(rate, config.initial_accumulator_value, config.epsilon)
    return keras.optimizers.Adam(rate, config.beta_1, config.beta_2, config.epsilon)


def new_slots(config: OptimizerConfig, size: int) -> np.ndarray:
    slots = np.empty((config.num_slots, size), np.float32)
    for slot in range(config.num_slots):
        slots[slot] = config.initial_slot_value(slot)
    return slots


def new_storage(config: OptimizerConfig, weights: np.ndarray) -> np.ndarray:
    slots = [
        np.full_like(weights, config.initial_slot_value(slot)) for slot in range(config.num_slots)
    ]
    return np.concatenate([weights, *slots], axis=1)


def keras_slots(optimizer: Any) -> list[np.ndarray]:
    """Return Keras's own slots, in its order: after iterations and learning rate."""
    return [variable.numpy() for variable in optimizer.variables[2:]]


@few_examples
@given(
    config=st.one_of(sgd, momentum_sgd, adagrad, adam),
    size=st.integers(1, 70),
    steps=num_steps,
    seed=seeds,
)
def test_dense_updates_are_those_of_keras(
    config: OptimizerConfig, size: int, steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=size).astype(np.float32)
    slots = new_slots(config, size)
    variable = keras.Variable(weights)
    optimizer = keras_optimizer(config)
    optimizer.build([variable])
    for step in range(steps):
        gradients = rng.normal(size=size).astype(np.float32)
        optimizer.apply([tf.constant(gradients)], [variable])
        apply_dense(config, weights, slots, gradients, config.learning_rate, step + 1)
        np.testing.assert_allclose(weights, variable.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
        for ours, theirs in zip(slots, keras_slots(optimizer), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def test_adam_stays_with_keras_over_many_steps() -> None:
    config = OptimizerConfig("adam", learning_rate=0.01)
    rng = np.random.default_rng(3)
    weights = rng.normal(size=64).astype(np.float32)
    slots = new_slots(config, 64)
    variable = keras.Variable(weights)
    optimizer = keras_optimizer(config)
    optimizer.build([variable])
    for step in range(300):
        gradients = rng.normal(size=64).astype(np.float32)
        before = weights.copy()
        optimizer.apply([tf.constant(gradients)], [variable])
        apply_dense(config, weights, slots, gradients, config.learning_rate, step + 1)
        np.testing.assert_allclose(weights, variable.numpy(), rtol=0, atol=TOLERANCE)
        assert np.abs(weights - before).max() > 0
        weights[:] = variable.numpy()  # 1e-6 a step


@few_examples
@given(
    config=st.one_of(sgd, adagrad),
    dim=st.integers(1, 20),
    steps=num_steps,
    sparse=st.booleans(),
    seed=seeds,
)
def test_row_updates_of_sgd_and_adagrad_are_those_of_keras(
    config: OptimizerConfig, dim: int, steps: int, sparse: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    num_rows = 12
    weights = rng.normal(size=(num_rows, dim)).astype(np.float32)
    storage = new_storage(config, weights)
    variable = keras.Variable(weights)
    optimizer = keras_optimizer(config)
    optimizer.build([variable])
    for step in range(steps):
        rows = rng.permutation(num_rows)[: rng.integers(0, num_rows + 1)].astype(np.int64)
        gradients = rng.normal(size=(len(rows), dim)).astype(np.float32)
        if sparse:
            keras_gradients = tf.IndexedSlices(gradients, rows, dense_shape=(num_rows, dim))
        else:
            dense = np.zeros_like(weights)
            dense[rows] = gradients
            keras_gradients = tf.constant(dense)
        if len(rows):  # an empty IndexedSlices is not a gradient Keras takes
            optimizer.apply([keras_gradients], [variable])
        iterations = np.full(len(rows), step + 1, np.int64)
        apply_rows(config, storage, rows, gradients, config.learning_rate, iterations)
        np.testing.assert_allclose(
            storage[:, :dim], variable.numpy(), rtol=TOLERANCE, atol=TOLERANCE
        )
        for ours, theirs in zip([storage[:, dim:]], keras_slots(optimizer), strict=False):
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def lazy_reference(
    config: OptimizerConfig,
    weights: np.ndarray,
    slots: list[np.ndarray],
    rows: np.ndarray,
    gradients: np.ndarray,
    iterations: np.ndarray,
) -> None:
    """Momentum SGD and Adam on the touched rows alone, written from the papers' formulas."""
    f32 = np.float32
    rate = f32(config.learning_rate)
    if config.name == "sgd":
        momentum = f32(config.momentum)
        velocity = slots[0][rows] * momentum - gradients * rate
        slots[0][rows] = velocity
        weights[rows] += velocity * momentum - gradients * rate if config.nesterov else velocity
        return
    # 1 - beta**t cancels digits, so the last bit of beta**t counts: as in Keras's scalars it is the
    # C library's; numpy's power of arrays is less precise.
    power_1 = np.array([[f32(config.beta_1) ** f32(t)] for t in iterations], f32).reshape(-1, 1)
    power_2 = np.array([[f32(config.beta_2) ** f32(t)] for t in iterations], f32).reshape(-1, 1)
    correction = np.sqrt(f32(1) - power_2) / (f32(1) - power_1)
    first = slots[0][rows] + (gradients - slots[0][rows]) * f32(1 - config.beta_1)
    second = slots[1][rows] + (gradients**2 - slots[1][rows]) * f32(1 - config.beta_2)
    slots[0][rows], slots[1][rows] = first, second
    weights[rows] -= first * (rate * correction) / (np.sqrt(second) + f32(config.epsilon))


@few_examples
@given(
    config=st.one_of(momentum_sgd, adam),
    dim=st.integers(1, 20),
    steps=num_steps,
    seed=seeds,
)
def test_lazy_row_updates_are_those_of_the_reference_and_leave_other_rows_alone(
    config: OptimizerConfig, dim: int, steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    num_rows = 12
    weights = rng.normal(size=(num_rows, dim)).astype(np.float32)
    storage = new_storage(config, weights)
    slots = [np.zeros_like(weights) for _ in range(config.num_slots)]
    row_iterations = np.zeros(num_rows, np.int64)  # rows of groups that advance differently
    for _ in range(steps):
        rows = rng.permutation(num_rows)[: rng.integers(0, num_rows + 1)].astype(np.int64)
        gradients = rng.normal(size=(len(rows), dim)).astype(np.float32)
        row_iterations[rows] += rng.integers(1, 3, len(rows))
        others = np.setdiff1d(np.arange(num_rows), rows)
        before = storage[others].copy()
        apply_rows(
            config, storage, rows, gradients, config.learning_rate, row_iterations[rows].copy()
        )
        lazy_reference(config, weights, slots, rows, gradients, row_iterations[rows])
        np.testing.assert_array_equal(storage[others], before)
        np.testing.assert_allclose(storage[:, :dim], weights, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(
            storage[:, dim:], np.concatenate(slots, axis=1), rtol=TOLERANCE, atol=TOLERANCE
        )


@few_examples
@given(config=st.one_of(momentum_sgd, adam), dim=st.integers(1, 9), steps=num_steps, seed=seeds)
def test_lazy_updates_that_touch_every_row_are_those_of_keras(
    config: OptimizerConfig, dim: int, steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, dim)).astype(np.float32)
    storage = new_storage(config, weights)
    variable = keras.Variable(weights)
    optimizer = keras_optimizer(config)
    optimizer.build([variable])
    for step in range(steps):
        gradients = rng.normal(size=(5, dim)).astype(np.float32)
        optimizer.apply([tf.constant(gradients)], [variable])
        iterations = np.full(5, step + 1, np.int64)
        rows = np.arange(5)
        apply_rows(config, storage, rows, gradients, config.learning_rate, iterations)
        np.testing.assert_allclose(
            storage[:, :dim], variable.numpy(), rtol=TOLERANCE, atol=TOLERANCE
        )


def test_gradients_in_read_only_memory_are_accepted() -> None:
    config = OptimizerConfig("sgd")
    storage = np.zeros((2, 3), np.float32)
    gradients = np.frombuffer(np.ones((2, 3), np.float32).tobytes(), np.float32).reshape(2, 3)
    rows = np.frombuffer(np.arange(2).tobytes(), np.int64)
    apply_rows(config, storage, rows, gradients, 0.5, np.ones(2, np.int64))
    np.testing.assert_array_equal(storage, np.full((2, 3), -0.5, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"gradients": np.ones((4, 3), np.float32)},
        {"gradients": np.ones((2, 3), np.float32)},
        {"gradients": np.ones((3, 3), np.float64)},
        {"gradients": np.ones(9, np.float32)},
        {"row_indices": np.array([0, 1, 5])},
        {"row_indices": np.array([0, 1, -1])},
        {"row_indices": np.array([0, 1, 2], np.int32)},
        {"iterations": np.ones(2, np.int64)},
        {"iterations": np.ones(3, np.float32)},
        {"storage": np.zeros((5, 7), np.float32)},
        {"storage": np.zeros((5, 6), np.float64)},
        {"storage": np.zeros((5, 12), np.float32)[:, ::2]},
    ],
)
def test_row_updates_that_do_not_fit_are_refused_before_anything_changes(
    change: dict[str, np.ndarray],
) -> None:
    arguments: dict[str, np.ndarray] = {
        "storage": np.zeros((5, 6), np.float32),
        "row_indices": np.arange(3),
        "gradients": np.ones((3, 3), np.float32),
        "iterations": np.ones(3, np.int64),
    }
    arguments |= change
    with pytest.raises(ValueError, match=next(iter(change))):
        apply_rows(OptimizerConfig("adagrad"), learning_rate=0.1, **arguments)
    assert not arguments["storage"].any()


def test_dense_updates_that_do_not_fit_are_refused_before_anything_changes() -> None:
    config = OptimizerConfig("adagrad")
    weights, slots = np.zeros(4, np.float32), np.zeros((1, 4), np.float32)
    gradients = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="gradients"):
        apply_dense(config, weights, slots, np.ones(3, np.float32), 0.1, 1)
    with pytest.raises(ValueError, match="slots"):
        apply_dense(config, weights, np.zeros((2, 4), np.float32), gradients, 0.1, 1)
    with pytest.raises(ValueError, match="weights"):
        apply_dense(config, np.zeros(4), slots, gradients, 0.1, 1)
    assert not weights.any()
    assert not slots.any()


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.5),
        keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True, name="mine_7"),
        keras.optimizers.Adagrad(0.5, initial_accumulator_value=0.0, epsilon=1e-3),
        keras.optimizers.Adam(0.5, beta_1=0.8, beta_2=0.99, epsilon=1e-6),
    ],
)
def test_hyper_parameters_are_those_of_the_keras_optimizer(optimizer: Any) -> None:
    class_name = type(optimizer).__name__
    config = OptimizerConfig.from_keras_config(optimizer.get_config(), class_name)
    assert config.name == class_name.lower()
    for field in dataclasses.fields(config):
        expected = optimizer.get_config().get(field.name)
        if field.name != "name" and expected is not None:
            assert getattr(config, field.name) == expected
    assert OptimizerConfig.from_json(config.to_json()) == config


def test_a_class_name_is_not_needed_where_the_optimizer_has_its_own_name() -> None:
    config = keras.optimizers.Adam().get_config() | {"name": "adam_12"}
    assert OptimizerConfig.from_keras_config(config).name == "adam"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.RMSprop(), "'RMSprop'.*SGD, Adagrad or Adam"),
        (keras.optimizers.AdamW(), "'AdamW'.*SGD, Adagrad or Adam"),
        (keras.optimizers.Adam(amsgrad=True), "amsgrad=True"),
        (keras.optimizers.Adam(clipnorm=1.0), "clipnorm=1.0"),
        (keras.optimizers.Adam(clipvalue=1.0), "clipvalue=1.0"),
        (keras.optimizers.SGD(global_clipnorm=1.0), "global_clipnorm=1.0"),
        (keras.optimizers.SGD(weight_decay=0.1), "weight_decay=0.1"),
        (keras.optimizers.SGD(use_ema=True), "use_ema=True"),
        (keras.optimizers.SGD(loss_scale_factor=2.0), "loss_scale_factor=2.0"),
        (keras.optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation_steps=2"),
        (
            keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
            "schedule 'ExponentialDecay'",
        ),
        (keras.optimizers.Adagrad(epsilon=-1.0), "epsilon is -1.0"),
    ],
)
def test_what_the_parameter_server_does_not_apply_is_an_error_that_names_it(
    optimizer: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        OptimizerConfig.from_keras_config(optimizer.get_config(), type(optimizer).__name__)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "lion"},
        {"name": "sgd", "momentum": 1.5},
        {"name": "sgd", "learning_rate": float("nan")},
        {"name": "sgd", "learning_rate": float("inf")},
        {"name": "sgd", "nesterov": 1},
        {"name": "adam", "beta_1": 1.0},
        {"name": "adam", "epsilon": "small"},
    ],
)
def test_a_config_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"optimizer '{fields['name']}'"):
        OptimizerConfig(**fields)


@pytest.mark.parametrize("text", ["", "[]", '{"name": ["sgd"]}', '{"name": "sgd", "x": 1}', "{}"])
def test_text_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message is clear
        OptimizerConfig.from_json(text)
