"""Keras's own Embedding on the parameter servers: whatever it computes, it computes there too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.hosted_embedding import HostedEmbedding
from elasticdl.layers.hosting import Hosting
from elasticdl.layers.lookup_context import CollectIds
from elasticdl.layers.matrix_table import KEEP_ALL
from elasticdl.layers.row_initializers import row_initializer
from elasticdl.model.keras_api import IS_LEGACY, keras

MATRIX = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def pair(**arguments) -> tuple[keras.layers.Embedding, HostedEmbedding]:
    """Return Keras's layer and the hosted one, with the same values."""
    plain = keras.layers.Embedding(8, 3, weights=[MATRIX], **arguments)
    with Hosting(0).active():
        hosted = keras.layers.Embedding(8, 3, weights=[MATRIX], **arguments)
        for each in (plain, hosted):
            each(tf.constant([1]))  # tf_keras builds here
    assert type(hosted) is HostedEmbedding
    return plain, hosted


IDS = {
    "matrix": tf.constant([[1, 0, 7], [2, 2, 5 if IS_LEGACY else -1]], tf.int64),
    "vector": tf.constant([3, 0], tf.int32),
    "floats": tf.constant([[3.0, 0.0]]),
    "cube": tf.zeros([2, 2, 2], tf.int64),
    "ragged": tf.ragged.constant([[1, 2], [], [7]], dtype=tf.int64),
    "sparse": tf.sparse.from_dense(tf.constant([[0, 4], [5, 0]], tf.int64)),
    **({"sparse_negative": tf.sparse.from_dense(tf.constant([[0, -3]]))} if IS_LEGACY else {}),
}


@pytest.mark.parametrize("kind", IDS)
def test_lookups_are_those_of_keras(kind: str) -> None:
    plain, hosted = pair()
    ours, theirs = hosted(IDS[kind]), plain(IDS[kind])
    if kind == "ragged" and isinstance(theirs, tf.RaggedTensor):
        ours, theirs = ours.to_tensor(), theirs.to_tensor()
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


def test_output_shapes_and_types_are_those_of_keras() -> None:
    plain, hosted = pair(dtype="mixed_bfloat16")
    ids = keras.Input([5], dtype="int64")
    assert (hosted(ids).shape, hosted(ids).dtype) == (plain(ids).shape, plain(ids).dtype)
    assert hosted(IDS["matrix"]).dtype == plain(IDS["matrix"]).dtype == tf.bfloat16


def test_zeros_are_masked_and_the_mask_goes_on() -> None:
    ids = tf.constant([[1, 2, 0], [3, 0, 0]], tf.int64)
    plain, hosted = pair(mask_zero=True)
    np.testing.assert_array_equal(hosted.compute_mask(ids), plain.compute_mask(ids))
    pool = keras.layers.GlobalAveragePooling1D()
    np.testing.assert_allclose(pool(hosted(ids)), pool(plain(ids)), rtol=1e-6)
    assert not np.allclose(pool(hosted(ids)), tf.reduce_mean(hosted(ids)[:, :], axis=1))


@pytest.mark.parametrize("wrong", [8, -1 if IS_LEGACY else -9, 2**40])
def test_an_id_outside_is_an_error_that_names_the_layer_and_the_id(wrong: int) -> None:
    plain, hosted = pair(name="words")
    ids = tf.constant([[1, wrong]], tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError):
        plain(ids)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"layer 'words'.*\[0, 8\).*\n?.*{wrong}"
    ):
        hosted(ids)


def test_only_what_is_large_enough_moves() -> None:
    with Hosting(97).active():
        small = keras.layers.Embedding(8, 3)
        large = keras.layers.Embedding(9, 3)
        small(tf.constant([1]))
        large(tf.constant([1]))
    assert type(small) is keras.layers.Embedding
    assert type(large) is HostedEmbedding
    with Hosting(KEEP_ALL).active():
        kept = keras.layers.Embedding(1000, 3)
        kept(tf.constant([1]))
    assert type(kept) is keras.layers.Embedding
    after = keras.layers.Embedding(1000, 3)
    after(tf.constant([1]))
    assert type(after) is keras.layers.Embedding


def test_a_matrix_too_large_for_any_memory_is_never_allocated() -> None:
    with Hosting(0).active():
        layer = keras.layers.Embedding(1 << 40, 64, embeddings_initializer="glorot_uniform")
        rows = layer(tf.constant([5, (1 << 40) - 1], tf.int64))
    assert rows.shape == (2, 64)
    assert np.abs(rows).max() > 0
    assert layer.given_rows() is None


@pytest.mark.parametrize(
    "initializer",
    [
        "uniform",
        "normal",
        "truncated_normal",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "lecun_uniform",
        keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    ],
)
def test_initial_rows_are_distributed_as_keras_draws_them(initializer) -> None:
    shape = (40_000, 4)
    keras.utils.set_random_seed(0)
    keras_own = keras.initializers.get(initializer)
    theirs = np.asarray(keras_own(shape))
    spread = float(theirs.std())
    by_id = row_initializer(keras_own, "table", 1, shape)
    ours = by_id.rows(np.arange(shape[0], dtype=np.int64), shape[1])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.02 * spread)
    assert ours.std() == pytest.approx(spread, rel=0.02)
    quantiles = [0.01, 0.1, 0.5, 0.9, 0.99]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=0.05 * spread
    )


def test_values_of_other_initializers_and_weights_that_are_set_are_kept_exactly() -> None:
    identity = keras.initializers.Identity()
    with Hosting(0).active():
        constant = keras.layers.Embedding(8, 3, embeddings_initializer=identity)
        constant(tf.constant([1]))
        late = keras.layers.Embedding(8, 3)
        late(tf.constant([1]))
        late.set_weights([MATRIX])
    np.testing.assert_array_equal(constant.given_rows(), np.eye(8, 3))
    np.testing.assert_array_equal(late.given_rows(), MATRIX)
    np.testing.assert_array_equal(late(IDS["matrix"]), MATRIX[IDS["matrix"].numpy()])
    with pytest.raises(ValueError, match="not compatible"):
        late.set_weights([MATRIX[:7]])


def test_weights_of_a_file_become_the_rows(tmp_path: Path) -> None:
    def sequential() -> keras.Model:
        return keras.Sequential([keras.Input([2], dtype="int64"), keras.layers.Embedding(8, 3)])

    plain = sequential()
    plain.layers[-1].set_weights([MATRIX])
    plain.save_weights(tmp_path / "w.weights.h5")
    with Hosting(0).active():
        hosted = sequential()
        hosted.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(hosted.layers[-1].given_rows(), MATRIX)


def test_whoever_asks_for_the_matrix_is_noted() -> None:
    hosting = Hosting(0)
    with hosting.active():
        layer = keras.layers.Embedding(8, 3, name="words")
        layer(tf.constant([1]))
        with pytest.raises(Exception, match="layer 'words': its matrix is used"):
            _ = layer.embeddings
    assert hosting.wanted == {"words/embeddings"}


def test_a_checkpoint_of_tensorflow_wants_the_matrix_that_it_has_values_of(tmp_path: Path) -> None:
    plain = keras.layers.Embedding(8, 3, name="words")
    plain(tf.constant([1]))
    path = tf.train.Checkpoint(plain).save(str(tmp_path / "checkpoint"))
    hosting = Hosting(0)
    with hosting.active():
        layer = keras.layers.Embedding(8, 3, name="words")
        layer(tf.constant([1]))
        with pytest.raises(UsageError, match="layer 'words': its matrix is used"):
            tf.train.Checkpoint(layer).restore(path)
    assert hosting.wanted == {"words/embeddings"}


@pytest.mark.skipif(IS_LEGACY, reason="negative ids are errors in tf_keras")
def test_collected_ids_count_from_the_start() -> None:
    _, hosted = pair()
    context = CollectIds()

    @tf.function(autograph=False)
    def collect() -> tf.Tensor:
        context.enter_graph()
        hosted(tf.constant([1, -1], tf.int64))
        return context.calls[0].ids

    with context.active():
        ids = collect()
    np.testing.assert_array_equal(ids, [1, 7])
