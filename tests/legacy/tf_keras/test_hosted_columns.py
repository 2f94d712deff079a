"""Embedding columns on the parameter servers: whatever they compute, they compute there too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from elasticdl.errors import UsageError
from elasticdl.layers.hosted_column import hosted_columns
from elasticdl.layers.hosting import Hosting, matrices_in
from elasticdl.layers.matrix_table import Matrix
from elasticdl.model.keras_api import keras, variable_path

fc = tf.feature_column
MATRIX = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
SPARSE = tf.sparse.SparseTensor([[0, 0], [0, 1], [2, 0], [3, 1]], [1, 7, 1, 5], [4, 2])
WEIGHTS = tf.sparse.SparseTensor(SPARSE.indices, [0.5, 2.0, -1.0, 1.5], [4, 2])
STRINGS = tf.sparse.SparseTensor(SPARSE.indices, ["a", "b", "unheard of", "a"], [4, 2])
FEATURES = {
    "id": SPARSE,
    "weight": WEIGHTS,
    "word": STRINGS,
    "number": tf.constant([[0.1], [0.4], [0.7], [0.2]]),
}
identity = fc.categorical_column_with_identity("id", 8)
bucket = fc.bucketized_column(fc.numeric_column("number"), [0.3, 0.6])
KINDS = {
    "identity": identity,
    "weighted": fc.weighted_categorical_column(identity, "weight"),
    "hashed": fc.categorical_column_with_hash_bucket("word", 8),
    "vocabulary": fc.categorical_column_with_vocabulary_list("word", list("abcdefgh")),
    "crossed": fc.crossed_column([bucket, "word"], 8),
}


def given(shape, dtype=None, **_) -> tf.Tensor:
    """Return the same values in both layers; has no form by id."""
    assert tuple(shape) == MATRIX.shape
    return tf.constant(MATRIX)


def pair(*columns):
    """Return tf_keras's layer and the one whose columns are tables, both built."""
    plain = keras.layers.DenseFeatures(columns, name="features")
    plain(FEATURES)
    with Hosting(0).active():
        hosted = keras.layers.DenseFeatures(columns, name="features")
        hosted(FEATURES)
    assert not hosted.weights
    return plain, hosted


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.9}, {"use_safe_embedding_lookup": False}])
@pytest.mark.parametrize("combiner", ["mean", "sqrtn", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_tf_keras(kind, combiner, options) -> None:
    if "use_safe_embedding_lookup" in options and kind == "vocabulary":
        pytest.skip("TensorFlow fails at a word that is not in the vocabulary")
    plain, hosted = pair(
        fc.embedding_column(KINDS[kind], 3, combiner, initializer=given, **options)
    )
    (table,) = hosted_columns(hosted)
    rows = tf.constant(table.given_rows())
    table.held_rows = lambda ids: tf.gather(rows, ids)
    slope = tf.constant(np.random.default_rng(1).normal(size=(4, 3)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rows)
        ours, theirs = hosted(FEATURES), plain(FEATURES)
        assert ours.shape == theirs.shape
        losses = [tf.reduce_sum(slope[: len(each)] * tf.sin(each)) for each in (ours, theirs)]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(ours).max() > 0.1
    gradients = [tape.gradient(losses[0], rows), tape.gradient(losses[1], plain.weights[0])]
    np.testing.assert_allclose(*map(tf.convert_to_tensor, gradients), atol=1e-6)


def test_mixed_precision_gives_the_type_and_values_of_tf_keras() -> None:
    column = fc.embedding_column(identity, 3, initializer=given)
    plain = keras.layers.DenseFeatures([column], dtype="mixed_bfloat16")(FEATURES)
    with Hosting(0).active():
        hosted = keras.layers.DenseFeatures([column], dtype="mixed_bfloat16")(FEATURES)
    assert hosted.dtype == plain.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(hosted, tf.float32), tf.cast(plain, tf.float32))


def test_records_without_any_id_give_zeros() -> None:
    nothing = tf.sparse.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0], tf.int64), [2, 5])
    plain, hosted = pair(fc.embedding_column(identity, 3, initializer=given))
    np.testing.assert_array_equal(hosted({"id": nothing}), np.zeros([2, 3]))
    np.testing.assert_array_equal(plain({"id": nothing}), np.zeros([2, 3]))


def test_an_id_of_a_weight_that_takes_no_part_is_not_looked_up() -> None:
    _, hosted = pair(fc.embedding_column(KINDS["weighted"], 3, initializer=given))
    (table,) = hosted_columns(hosted)
    looked_up = []
    table.held_rows = lambda ids: looked_up.append(ids.numpy()) or tf.gather(MATRIX, ids)
    hosted(FEATURES)
    np.testing.assert_array_equal(looked_up, [[1, 7, 5]])


def test_a_table_has_the_path_that_the_matrix_would_have() -> None:
    columns = [fc.embedding_column(KINDS[kind], 3) for kind in ("identity", "hashed")]
    plain, hosted = pair(*columns)
    paths = [table.table_name for table in hosted_columns(hosted)]
    assert paths == [variable_path(each) for each in plain.weights]
    assert paths[0] == "features/id_embedding/embedding_weights"


def test_a_matrix_too_large_for_any_memory_is_never_allocated() -> None:
    large = fc.categorical_column_with_hash_bucket("word", 1 << 40)
    with Hosting(200).active():
        layer = keras.layers.DenseFeatures(
            [fc.embedding_column(large, 64), fc.embedding_column(identity, 3)]
        )
        vectors = layer(FEATURES)
    assert vectors.shape == (4, 67)
    assert [table.output_dim for table in hosted_columns(layer)] == [64]
    assert [tuple(each.shape) for each in layer.weights] == [(8, 3)]
    after = keras.layers.DenseFeatures([fc.embedding_column(identity, 3)])
    after(FEATURES)
    assert len(after.weights) == 1


@pytest.mark.parametrize(
    "initializer",
    [
        None,
        tf.compat.v1.random_uniform_initializer(),
        tf.compat.v1.random_normal_initializer(stddev=0.3),
        tf.compat.v1.variance_scaling_initializer(2.0, "fan_avg", "uniform"),
        tf.random_uniform_initializer(-0.2, 0.3),
        tf.compat.v1.glorot_uniform_initializer(),
        tf.zeros_initializer(),
        tf.compat.v1.constant_initializer(0.25),
        tf_keras.initializers.RandomNormal(0.0, 0.2),
    ],
)
def test_initial_rows_are_distributed_as_tensorflow_draws_them(initializer) -> None:
    categories = fc.categorical_column_with_identity("id", 40_000)
    column = fc.embedding_column(categories, 4, initializer=initializer)
    with Hosting(0).active():
        layer = keras.layers.DenseFeatures([column])
        layer(FEATURES)
    (table,) = hosted_columns(layer)
    assert table.given_rows() is None
    ours = table.row_initializer(1).rows(np.arange(40_000, dtype=np.int64), 4)
    theirs = np.asarray(column.initializer((40_000, 4), dtype=tf.float32))
    spread = float(theirs.std())
    quantiles = [0.01, 0.1, 0.5, 0.9, 0.99]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=0.05 * spread + 1e-7
    )


def test_what_a_checkpoint_of_tensorflow_has_stays_local(tmp_path: Path) -> None:
    column = fc.embedding_column(identity, 3)
    plain = keras.layers.DenseFeatures([column], name="features")
    plain(FEATURES)
    path = tf.train.Checkpoint(plain).save(str(tmp_path / "checkpoint"))
    hosting = Hosting(0)
    with hosting.active():
        layer = keras.layers.DenseFeatures([column], name="features")
        layer(FEATURES)
        with pytest.raises(UsageError, match="'id_embedding' of layer 'features': its matrix is"):
            tf.train.Checkpoint(layer).restore(path)
        before = keras.layers.DenseFeatures([column], name="features")
        tf.train.Checkpoint(before).restore(path)
        before(FEATURES)
    assert hosting.wanted == {"features/id_embedding/embedding_weights"}
    np.testing.assert_array_equal(before.weights[0], plain.weights[0])


def test_sequence_features_keep_their_matrix_and_are_known_to() -> None:
    column = fc.embedding_column(fc.sequence_categorical_column_with_identity("id", 8), 3)
    with Hosting(0).active():
        layer = keras.experimental.SequenceFeatures([column], name="sequences")
        layer(FEATURES)
    (matrix,) = matrices_in(layer)
    assert matrix.variable is layer.weights[0]
    assert matrix.label == "column 'id_embedding' of layer 'sequences'"
    assert matrix.is_large(96)
    assert not matrix.is_large(97)


def test_what_layers_and_columns_freeze_is_frozen() -> None:
    def trainable(layer_is: bool, column_is: bool) -> bool:
        _, hosted = pair(fc.embedding_column(identity, 3, trainable=column_is))
        hosted.trainable = layer_is
        (table,) = hosted_columns(hosted)
        return table.trainable

    assert [trainable(*each) for each in ((1, 1), (0, 1), (1, 0))] == [True, False, False]


def test_shared_embeddings_are_refused_by_tensorflow_itself() -> None:
    with pytest.raises(RuntimeError, match="not supported when eager execution is enabled"):
        fc.shared_embeddings([identity], 3)


def test_a_function_as_an_initializer_has_no_form_by_id() -> None:
    assert Matrix("it", (8, 3), given).initializer_by_id("it", 0) is None
