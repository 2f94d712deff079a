"""A training step that a model class defines itself is computed as written, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import IS_LEGACY
from elasticdl.model.mode import Mode
from elasticdl.worker.step_results import TrainResult
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import contract_of

BEGIN = """
import tensorflow as tf
from elasticdl.layers import Embedding

keras = tf.keras


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_regularizer="l2")
        self.rows = Embedding(3) if {table} else None
        self.tracker = keras.metrics.Mean(name="loss")
        self.other = keras.optimizers.SGD(0.1)

    def call(self, x, training=False):
        parts = [x["x"]] if self.rows is None else [x["x"], self.rows(x["i"])]
        return self.dense(tf.concat(parts, 1))
"""
STEP = """
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=predicted)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        {apply}
        self.tracker.update_state(loss)
        return {{"loss": self.tracker.result()}}
"""
END = """
def loss(labels, predictions):
    return tf.reduce_mean(tf.square(tf.expand_dims(labels, -1) - predictions))


def optimizer():
    return keras.optimizers.SGD(0.1)


def feed(dataset, mode, metadata):
    features = {"x": tf.zeros([4]), "i": tf.constant(3, tf.int64)}
    return dataset.map(lambda record: (features, tf.constant(1.0)))
"""
GIVEN = "self.optimizer.apply_gradients(zip({}, variables))"
STANDARD = GIVEN.format("gradients")
NEW = "self.optimizer.apply(gradients, variables)"  # of Keras 3 alone


FEATURES = {
    "x": tf.constant(np.arange(8).reshape(2, 4) / 8, tf.float32),
    "i": tf.constant([3, 3], tf.int64),
}
LABELS = tf.constant([1.0, 2.0])


def two_phase(directory: Path, method: str, table: bool = True) -> TwoPhaseModel:
    contract = contract_of(directory, BEGIN.format(table=table) + method + END, "Model")
    spec = element_spec(contract, Mode.TRAINING)
    return TwoPhaseModel(contract, spec.features, spec.labels, 0)


def step(directory: Path, method: str, table: bool = True) -> TrainResult:
    model = two_phase(directory, method, table)
    rows = [np.full((1, 3), 0.5, np.float32)] if table else []
    inverses = [np.zeros(2, np.int32)] if table else []
    return model.train_step(FEATURES, LABELS, model.initial_dense(), rows, inverses)


@pytest.mark.parametrize(
    "method",
    [
        STEP.format(apply=STANDARD),
        pytest.param(
            STEP.format(apply=NEW),
            marks=pytest.mark.skipif(IS_LEGACY, reason="tf_keras has no optimizer.apply"),
        ),
        "\n    def train_step(self, data):\n        return super().train_step(data)\n",
        "\n    def compute_loss(self, *args, **kwargs):\n"
        "        return super().compute_loss(*args, **kwargs) * 1.0\n",
    ],
)
def test_a_step_that_is_kerass_own_gives_the_same(tmp_path: Path, method: str) -> None:
    expected, result = step(tmp_path / "a", ""), step(tmp_path / "b", method)
    assert result.loss == expected.loss
    assert np.any(expected.row_gradients[0])
    np.testing.assert_allclose(result.dense_gradients, expected.dense_gradients, rtol=1e-6)
    np.testing.assert_allclose(result.row_gradients[0], expected.row_gradients[0], rtol=1e-6)


OWN_LOSS = """
    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        {}
"""


@pytest.mark.parametrize("has_weights", [False, True])
def test_an_evaluation_has_the_loss_of_the_models_own(tmp_path: Path, has_weights: bool) -> None:
    own = OWN_LOSS.format(
        "return tf.reduce_mean(tf.abs(y - y_pred[:, 0])) * (args[0] is None or 3)"
    )
    model = two_phase(tmp_path, own)
    weights = tf.constant([1.0, 5.0]) if has_weights else None
    rows, inverses = [np.full((1, 3), 0.5, np.float32)], [np.zeros(2, np.int32)]
    at = (model.initial_dense(), rows, inverses)
    found = model.evaluation_step(FEATURES, LABELS, *at, weights)
    outputs = model.forward(FEATURES, *at)
    np.testing.assert_array_equal(found.outputs, outputs)
    expected = np.abs(LABELS - outputs[:, 0]).mean() * (3 if has_weights else 1)
    assert found.loss is not None
    assert float(found.loss) == pytest.approx(expected, rel=1e-6)
    assert float(found.penalty) == 0.0
    assert model.warnings == []


def test_a_model_without_a_loss_of_its_own_is_measured_by_its_definitions(tmp_path: Path) -> None:
    model = two_phase(tmp_path, "", table=False)
    found = model.evaluation_step(FEATURES, LABELS, model.initial_dense(), [], [])
    assert found.loss is None
    assert float(found.penalty) > 0.0


@pytest.mark.parametrize("returned", ["None", "'low'", "y > 0"])
def test_a_loss_of_the_models_own_that_is_none_is_an_error(tmp_path: Path, returned: str) -> None:
    model = two_phase(tmp_path, OWN_LOSS.format(f"return {returned}"), table=False)
    with pytest.raises(UsageError) as raised:
        model.evaluation_step(FEATURES, LABELS, model.initial_dense(), [], [])
    assert str(raised.value) == (
        "compute_loss of 'definition.Model': returns no float tensor; return the minibatch's loss"
    )


def test_what_a_step_does_to_gradients_is_kept(tmp_path: Path) -> None:
    halved = STEP.format(apply=GIVEN.format("[g / 2 for g in gradients]"))
    expected, result = step(tmp_path / "a", "", table=False), step(tmp_path / "b", halved, False)
    np.testing.assert_allclose(result.dense_gradients, expected.dense_gradients / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            f"{STANDARD}; self.other.apply_gradients(zip(gradients, variables))",
            "to optimizers 2 times; a step is",
        ),
        ("pass", "gives no gradients to an optimizer; a step is one update by one optimizer"),
        (
            "[v.assign_sub(0.1 * g) for v, g in zip(variables, gradients)]",
            "gives no gradients to an optimizer",
        ),
        (
            f"{STANDARD}; self.dense.bias.assign(self.dense.bias * 2.0)",
            "assigns to variable 'model/dense/bias', which the optimizer trains",
        ),
        (
            GIVEN.format("[2 * g for g in gradients]"),
            "would not reach the rows of the embedding tables",
        ),
        (
            f"tf.cond(loss > 0, lambda: {GIVEN.format('[g * 1.0 for g in gradients]')}, "
            "lambda: None)",
            "applies gradients under a condition",
        ),
        (f"{STANDARD} if self.optimizer.iterations else 0", "reads optimizer.iterations"),
        (
            "self.optimizer.apply_gradients([(loss, self.tracker.variables[0])])",
            "which the model does not own",
        ),
    ],
)
def test_a_step_that_does_more_is_an_error_that_says_what(
    tmp_path: Path, apply: str, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        step(tmp_path, STEP.format(apply=apply))
    assert str(raised.value).startswith("train_step of 'definition.Model': ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
