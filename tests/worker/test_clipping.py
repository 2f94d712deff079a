"""Clipping in the training step: what a plain Keras run of the same model applies."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from elasticdl.model.element_spec import element_spec
from elasticdl.model.mode import Mode
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import contract_of, general

RNG = np.random.default_rng(7)
FEATURES = {
    "i": tf.constant([[1, 5], [9, 1], [3, 5]], tf.int64),
    "v": tf.sparse.from_dense(tf.constant([[7], [8], [7]], tf.int64)),
    "x": tf.constant(RNG.normal(size=(3, 3)), tf.float32),
}
LABELS = tf.constant([4.0, -3.0, 2.0])
MODEL = """
def create_model():
    i = keras.Input((2,), dtype="int64", name="i")
    x = keras.Input((3,), name="x")
    pooled = Embedding(4, combiner="sum", name="table")(i)
    h = keras.layers.BatchNormalization(name="norm")(keras.layers.Concatenate()([pooled, x]))
    return keras.Model({"i": i, "x": x}, keras.layers.Dense(1, name="out")(h))
"""
OPTIMIZER = "tf.keras.optimizers.Adagrad(learning_rate)"


def model_of(
    directory: Path, optimizer: str, model: str = MODEL, clips: bool = True
) -> TwoPhaseModel:
    contract = contract_of(directory, general(model).replace(OPTIMIZER, optimizer))
    spec = element_spec(contract, Mode.TRAINING)
    return TwoPhaseModel(contract, spec.features, spec.labels, 0, clips=clips)


def plain_keras(dense: np.ndarray, rows: np.ndarray, inverse: np.ndarray, **clip: float):
    """One step of rate 1 of the same model with Keras's own embedding; returns what it took off.

    The embedding's gradient is given summed by row, as ours is: Keras clips what it is given.
    """
    i, x = keras.Input((2,), dtype="int64", name="i"), keras.Input((3,), name="x")
    table = keras.layers.Embedding(len(rows), 4, name="table")
    pooled = keras.ops.sum(table(i), axis=1)
    h = keras.layers.BatchNormalization(name="norm")(keras.layers.Concatenate()([pooled, x]))
    model = keras.Model({"i": i, "x": x}, keras.layers.Dense(1, name="out")(h))
    table.embeddings.assign(rows)
    others = [each for each in model.trainable_variables if each is not table.embeddings]
    start = 0
    for each in others:
        size = int(np.prod(each.shape))
        each.assign(dense[start : start + size].reshape(each.shape))
        start += size
    with tf.GradientTape() as tape:
        features = {"i": tf.constant(inverse.reshape(3, 2)), "x": FEATURES["x"]}
        outputs = model(features, training=True)
        loss = tf.reduce_mean(tf.square(tf.reshape(outputs, [-1]) - LABELS))
    variables = [*others, table.embeddings]
    gradients = tape.gradient(loss, [each.value for each in variables])
    before = [each.numpy() for each in variables]
    optimizer = keras.optimizers.SGD(1.0, **clip)
    optimizer.apply([tf.convert_to_tensor(each) for each in gradients], variables)
    taken = [old - each.numpy() for old, each in zip(before, variables, strict=True)]
    return np.concatenate([np.ravel(each) for each in taken[:-1]]), taken[-1]


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.3}, {"clipvalue": 0.2}, {"global_clipnorm": 0.5}, {"clipnorm": 100.0}]
)
def test_clipped_gradients_are_those_of_a_plain_keras_run(tmp_path: Path, clip) -> None:
    (option, value), *_ = clip.items()
    model = model_of(tmp_path, f"tf.keras.optimizers.SGD(1.0, {option}={value})")
    unclipped = model_of(tmp_path, f"tf.keras.optimizers.SGD(1.0, {option}={value})", clips=False)
    (ids,) = model.collect(FEATURES)
    distinct, inverse = np.unique(ids.numpy(), return_inverse=True)
    rows = model.table_definitions[0].initializer.rows(distinct, 4)
    dense = model.initial_dense()
    inverses = [inverse.astype(np.int32)]
    result = model.train_step(FEATURES, LABELS, dense, [rows], inverses)
    plain = unclipped.train_step(FEATURES, LABELS, dense, [rows], inverses)

    expected_dense, expected_rows = plain_keras(dense, rows, inverse, **clip)
    size = len(expected_dense)
    np.testing.assert_allclose(result.dense_gradients[:size], expected_dense, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.row_gradients[0], expected_rows, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        result.dense_gradients[size:],
        plain.dense_gradients[size:],
        err_msg="changes of model state are no gradients",
    )
    was_cut = np.abs(plain.dense_gradients[:size]).max() > np.abs(expected_dense).max() + 1e-3
    assert was_cut == (value < 100)
