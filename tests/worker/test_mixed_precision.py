"""Mixed precision: variables and gradients in float32, what is between in bfloat16."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.element_spec import element_spec
from elasticdl.model.mode import Mode
from elasticdl.ps import bfloat16
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import contract_of, general
from tests.worker.test_two_phase import FEATURES, LABELS, pulled, step

GLOBAL = """
keras.mixed_precision.set_global_policy("{policy}")

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.user = Embedding(4, name="user")
        self.word = keras.layers.Embedding(100, 4, name="word")

    def build(self, shape):
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.out = keras.layers.Dense(1, dtype="float32")

    def call(self, features):
        ids = features["i"]
        rows = tf.concat([self.user(ids), self.word(ids % 100)], axis=2)
        flat = tf.reshape(rows, [-1, 16])
        x = tf.concat([flat, tf.cast(features["x"], flat.dtype)], axis=1)
        return self.out(self.hidden(x))

def create_model():
    return Net()
"""


def model_of(directory: Path, policy: str) -> TwoPhaseModel:
    contract = contract_of(directory, general(GLOBAL.format(policy=policy)))
    spec = element_spec(contract, Mode.TRAINING)
    return TwoPhaseModel(contract, spec.features, spec.labels, 0)


def test_a_policy_of_the_zoo_is_used_wherever_its_layers_are_made_and_nowhere_else(
    tmp_path: Path,
) -> None:
    model = model_of(tmp_path, "mixed_bfloat16")
    assert keras.mixed_precision.global_policy().name == "float32"
    computed = {layer.name: layer.compute_dtype for layer in model.model.layers}
    assert set(computed.values()) == {"bfloat16", "float32"}
    assert [name for name, dtype in computed.items() if dtype == "float32"] == ["dense_1"]
    other = tmp_path / "other"
    other.mkdir()
    assert {layer.compute_dtype for layer in model_of(other, "float32").model.layers} == {"float32"}


def test_a_step_is_that_of_keras_within_what_bfloat16_holds(tmp_path: Path) -> None:
    model = model_of(tmp_path, "mixed_bfloat16")
    at = pulled(model)
    result = step(model, at)
    assert result.finite
    assert all(each.dtype == np.float32 for each in (result.dense_gradients, *result.row_gradients))
    exact = model_of(tmp_path, "float32")
    expected = step(exact, pulled(exact))
    assert result.loss == pytest.approx(expected.loss, rel=0.02)
    assert result.loss != expected.loss
    for ours, theirs in zip(
        (result.dense_gradients, *result.row_gradients),
        (expected.dense_gradients, *expected.row_gradients),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=0.03 * np.abs(theirs).max())

    # And Keras's own step, of the same model called as it is.
    variables = model.model.trainable_variables
    with tf.GradientTape() as tape:
        outputs = model.model(FEATURES, training=True)
        loss = tf.reduce_mean(tf.square(tf.reshape(outputs, [-1]) - LABELS))
    assert result.loss == pytest.approx(float(loss), rel=1e-3)
    own = tape.gradient(loss, [each.value for each in variables])
    flat = np.concatenate([np.ravel(tf.convert_to_tensor(each)) for each in own])
    np.testing.assert_allclose(result.dense_gradients, flat, atol=0.01 * np.abs(flat).max())


def test_weights_that_came_as_bfloat16_are_those_that_a_layer_in_bfloat16_computes_with(
    tmp_path: Path,
) -> None:
    """--wire_dtype=bfloat16 rounds what such layers round again: that changes nothing."""
    model = model_of(tmp_path, "mixed_bfloat16")
    at = pulled(model)
    expected = step(model, at)
    start = 0
    for variable in model.variables:
        end = start + variable.num_elements
        if "dense_1" not in variable.path:  # It computes in float32.
            at.dense[start:end] = bfloat16.widened(bfloat16.narrow(at.dense[start:end]))
        start = end
    at.rows = [bfloat16.widened(bfloat16.narrow(rows).reshape(rows.shape)) for rows in at.rows]
    result = step(model, at)
    assert (result.loss, result.finite) == (expected.loss, True)
    np.testing.assert_array_equal(result.dense_gradients, expected.dense_gradients)
    for ours, theirs in zip(result.row_gradients, expected.row_gradients, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_in_mixed_precision_learns(tmp_path: Path) -> None:
    model = model_of(tmp_path, "mixed_bfloat16")
    at = pulled(model)
    losses = []
    for _ in range(40):
        result = step(model, at)
        losses.append(result.loss)
        at.dense = at.dense - 0.1 * result.dense_gradients
        at.rows = [
            rows - 0.1 * gradients
            for rows, gradients in zip(at.rows, result.row_gradients, strict=True)
        ]
    assert losses[-1] < 0.2 * losses[0]


def test_float16_is_an_error_that_names_what_to_use(tmp_path: Path) -> None:
    model = model_of(tmp_path, "mixed_float16")
    with pytest.raises(UsageError, match=r"computes in float16.*'mixed_bfloat16'"):
        step(model, pulled(model))
