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
from elasticdl.ps.keras_optimizers import from_keras_config
from elasticdl.ps.optimizers import OptimizerConfig, apply_dense, apply_rows
from elasticdl.ps.update_rules import UPDATE_RULES
from tests.ps import lazy_reference

TOLERANCE = 1e-6
few_examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32 - 1)
learning_rates = st.floats(1e-4, 0.1)
momenta = st.floats(0.01, 1.0)
rhos = st.floats(0.5, 0.99)
epsilons = st.floats(1e-8, 1e-3)
beta_1s = st.floats(0.0, 0.99)
beta_2s = st.floats(0.5, 0.9999)
num_steps = st.integers(1, 8)


def configs(name: str, **strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[OptimizerConfig]:
    decays = st.one_of(st.just(0.0), st.floats(1e-3, 0.5))
    return st.builds(
        OptimizerConfig,
        name=st.just(name),
        learning_rate=learning_rates,
        weight_decay=decays,
        **strategies,
    )


STRATEGIES: dict[str, st.SearchStrategy[OptimizerConfig]] = {
    "sgd": configs("sgd", momentum=st.one_of(st.just(0.0), momenta), nesterov=st.booleans()),
    "adagrad": configs("adagrad", initial_accumulator_value=st.floats(0.0, 1.0), epsilon=epsilons),
    "adam": configs(
        "adam", beta_1=beta_1s, beta_2=beta_2s, epsilon=epsilons, amsgrad=st.booleans()
    ),
    "adamw": configs(
        "adamw", beta_1=beta_1s, beta_2=beta_2s, epsilon=epsilons, amsgrad=st.booleans()
    ),
    "rmsprop": configs(
        "rmsprop",
        rho=rhos,
        momentum=st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
        epsilon=epsilons,
        centered=st.booleans(),
    ),
    "adadelta": configs("adadelta", rho=rhos, epsilon=epsilons),
    "adamax": configs("adamax", beta_1=beta_1s, beta_2=beta_2s, epsilon=epsilons),
    "nadam": configs("nadam", beta_1=beta_1s, beta_2=beta_2s, epsilon=epsilons),
    "ftrl": configs(
        "ftrl",
        learning_rate_power=st.one_of(st.just(-0.5), st.floats(-1.0, -0.1)),
        initial_accumulator_value=st.floats(0.01, 1.0),
        l1_regularization_strength=st.floats(0.0, 1.0),
        l2_regularization_strength=st.floats(0.0, 1.0),
        l2_shrinkage_regularization_strength=st.floats(0.0, 0.1),
        beta=st.floats(0.0, 1.0),
    ),
    "lion": configs("lion", beta_1=st.floats(0.01, 0.99), beta_2=beta_2s),
}
any_config = st.sampled_from(sorted(STRATEGIES)).flatmap(STRATEGIES.__getitem__)
sgd = configs("sgd").filter(lambda config: not config.weight_decay)
adagrad = STRATEGIES["adagrad"].filter(lambda config: not config.weight_decay)


def keras_optimizer(config: OptimizerConfig) -> Any:
    rule = UPDATE_RULES[config.name]
    hyper_parameters = {name: getattr(config, name) for name in rule.hyper_parameters}
    return getattr(keras.optimizers, rule.keras_name)(
        learning_rate=config.learning_rate, weight_decay=config.weight_decay, **hyper_parameters
    )


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
    """Return Keras's own slots, in its order: after iterations and learning rate.

    Without Nadam's product, which is no slot here but a function of the iteration.
    """
    return [variable.numpy() for variable in optimizer.variables[2:] if len(variable.shape)]


def assert_slots_close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        # To 1e-6 of what the slot holds: Ftrl's linear term is a difference of large numbers.
        atol = TOLERANCE * max(1.0, float(np.abs(other).max(initial=0.0)))
        np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=atol)


def test_every_rule_has_a_strategy_and_a_lazy_reference() -> None:
    assert set(UPDATE_RULES) == set(STRATEGIES) == set(lazy_reference.REFERENCES)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@few_examples
@given(data=st.data(), size=st.integers(1, 70), steps=num_steps, seed=seeds)
def test_dense_updates_are_those_of_keras(
    name: str, data: st.DataObject, size: int, steps: int, seed: int
) -> None:
    config = data.draw(STRATEGIES[name])
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
        assert_slots_close(list(slots), keras_slots(optimizer))
        # 1e-6 a step: the next one begins where Keras is.
        weights[:] = variable.numpy()
        for slot, values in zip(slots, keras_slots(optimizer), strict=True):
            slot[:] = values


@pytest.mark.parametrize("name", ["adam", "nadam", "adamax"])
def test_what_depends_on_the_iteration_stays_with_keras_over_many_steps(name: str) -> None:
    config = OptimizerConfig(name, learning_rate=0.01)
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


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@few_examples
@given(data=st.data(), dim=st.integers(1, 20), steps=num_steps, seed=seeds)
def test_lazy_row_updates_are_those_of_the_reference_and_leave_other_rows_alone(
    name: str, data: st.DataObject, dim: int, steps: int, seed: int
) -> None:
    config = data.draw(STRATEGIES[name])
    rng = np.random.default_rng(seed)
    num_rows = 12
    weights = rng.normal(size=(num_rows, dim)).astype(np.float32)
    storage = new_storage(config, weights)
    slots = {
        slot: np.full_like(weights, config.initial_slot_value(position))
        for position, slot in enumerate(config.slot_names)
    }
    row_iterations = np.zeros(num_rows, np.int64)  # rows of groups that advance differently
    for _ in range(steps):
        rows = rng.permutation(num_rows)[: rng.integers(0, num_rows + 1)].astype(np.int64)
        gradients = rng.normal(size=(len(rows), dim)).astype(np.float32)
        row_iterations[rows] += rng.integers(1, 3, len(rows))
        others = np.setdiff1d(np.arange(num_rows), rows)
        before = storage[others].copy()
        iterations = row_iterations[rows].copy()
        apply_rows(config, storage, rows, gradients, config.learning_rate, iterations)
        lazy_reference.apply(config, weights, slots, rows, gradients, iterations)
        np.testing.assert_array_equal(storage[others], before)
        np.testing.assert_allclose(storage[:, :dim], weights, rtol=TOLERANCE, atol=TOLERANCE)
        columns = np.split(storage[:, dim:], max(1, config.num_slots), axis=1)
        assert_slots_close(columns[: config.num_slots], list(slots.values()))
        storage[:] = np.concatenate([weights, *slots.values()], axis=1)  # 1e-6 a step


@few_examples
@given(config=any_config, dim=st.integers(1, 9), steps=num_steps, seed=seeds)
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
        apply_rows(config, storage, np.arange(5), gradients, config.learning_rate, iterations)
        np.testing.assert_allclose(
            storage[:, :dim], variable.numpy(), rtol=TOLERANCE, atol=TOLERANCE
        )
        storage[:] = np.concatenate([variable.numpy(), *keras_slots(optimizer)], axis=1)


def test_nadam_at_an_iteration_depends_on_nothing_but_the_iteration() -> None:
    """A group that is restored, or moved, goes on as if it had always been there."""
    config = OptimizerConfig("nadam", learning_rate=0.1)
    gradients = np.ones((4, 3), np.float32)
    iterations = np.array([7, 5000, 7, 1])
    together = new_storage(config, np.zeros((4, 3), np.float32))
    apply_rows(config, together, np.arange(4), gradients, 0.1, iterations)
    for row, iteration in enumerate(iterations):
        alone = new_storage(config, np.zeros((1, 3), np.float32))
        apply_rows(config, alone, np.zeros(1, np.int64), gradients[:1], 0.1, np.array([iteration]))
        np.testing.assert_array_equal(alone[0], together[row])
    assert (together[0] != together[1]).any()
    assert np.isfinite(together).all()


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
        keras.optimizers.SGD(0.5, weight_decay=0.1, clipnorm=2.0),
        keras.optimizers.Adagrad(0.5, initial_accumulator_value=0.0, epsilon=1e-3),
        keras.optimizers.Adam(0.5, beta_1=0.8, beta_2=0.99, epsilon=1e-6, amsgrad=True),
        keras.optimizers.AdamW(0.5, clipvalue=0.5),
        keras.optimizers.RMSprop(0.5, rho=0.8, momentum=0.3, centered=True),
        keras.optimizers.Adadelta(0.5),
        keras.optimizers.Adamax(0.5, global_clipnorm=3.0),
        keras.optimizers.Nadam(0.5),
        keras.optimizers.Ftrl(
            0.5,
            learning_rate_power=-0.3,
            l1_regularization_strength=0.1,
            l2_regularization_strength=0.2,
            l2_shrinkage_regularization_strength=0.3,
            beta=0.4,
        ),
        keras.optimizers.Lion(0.5),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_hyper_parameters_are_those_of_the_keras_optimizer(optimizer: Any) -> None:
    class_name = type(optimizer).__name__
    config = from_keras_config(optimizer.get_config(), class_name)
    assert config.name == class_name.lower()
    for field in dataclasses.fields(config):
        expected = optimizer.get_config().get(field.name)
        if field.name != "name" and expected is not None:
            assert getattr(config, field.name) == expected
    assert OptimizerConfig.from_json(config.to_json()) == config


def test_a_class_name_is_not_needed_where_the_optimizer_has_its_own_name() -> None:
    config = keras.optimizers.Adam().get_config() | {"name": "adam_12"}
    assert from_keras_config(config).name == "adam"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.Lamb(), "'Lamb'.*use AdamW"),
        (keras.optimizers.Adafactor(), "'Adafactor'.*use Adagrad"),
        (keras.optimizers.Muon(), "'Muon'.*use AdamW"),
        (
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            "'LossScaleOptimizer'.*mixed_bfloat16",
        ),
        (keras.optimizers.SGD(use_ema=True), "use_ema=True.*CosineDecay"),
        (keras.optimizers.SGD(loss_scale_factor=2.0), "loss_scale_factor=2.0.*mixed_bfloat16"),
        (
            keras.optimizers.SGD(gradient_accumulation_steps=2),
            "gradient_accumulation_steps=2.*--consistency=sync --grads_to_wait",
        ),
        (keras.optimizers.Adagrad(epsilon=-1.0), "epsilon is -1.0"),
    ],
)
def test_what_the_parameter_server_does_not_apply_is_an_error_that_names_it(
    optimizer: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        from_keras_config(optimizer.get_config(), type(optimizer).__name__)
    assert "\n" not in str(error.value)


def test_the_users_own_optimizer_is_an_error_that_names_those_there_are() -> None:
    class Mine(keras.optimizers.SGD):
        pass

    with pytest.raises(UsageError, match=r"'Mine': not supported.*use SGD, Adagrad, .* or Lion"):
        from_keras_config(Mine().get_config(), "Mine")


def test_a_schedule_is_named_in_the_config() -> None:
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
    assert from_keras_config(optimizer.get_config(), "SGD").schedule == "ExponentialDecay"


def test_configs_of_tf_keras_are_read_and_its_decay_is_an_error() -> None:
    """What `get_config()` of tf_keras 2.19 returns, new and legacy."""
    new = {
        "name": "Adam",
        "weight_decay": None,
        "clipnorm": None,
        "global_clipnorm": None,
        "clipvalue": None,
        "use_ema": False,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": None,
        "jit_compile": False,
        "is_legacy_optimizer": False,
        "learning_rate": np.float32(0.25),
        "beta_1": 0.9,
        "beta_2": np.float32(0.5),
        "epsilon": 1e-07,
        "amsgrad": False,
    }
    assert from_keras_config(new, "Adam") == OptimizerConfig("adam", 0.25, beta_2=0.5)
    legacy = {"name": "SGD", "learning_rate": 0.5, "decay": 0.0, "momentum": 0.0, "nesterov": False}
    assert from_keras_config(legacy, "SGD") == OptimizerConfig("sgd", 0.5)
    with pytest.raises(UsageError, match=r"decay=0\.1.*InverseTimeDecay or ExponentialDecay"):
        from_keras_config(legacy | {"decay": 0.1}, "SGD")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "lamb"},
        {"name": "ftrl", "learning_rate_power": 0.5},
        {"name": "adam", "clipnorm": 1.0, "clipvalue": 1.0},
        {"name": "adamw", "weight_decay": -0.1},
        {"name": "rmsprop", "centered": 1},
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
