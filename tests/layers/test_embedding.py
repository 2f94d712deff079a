"""What the embedding layer computes, for every kind of ids."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.errors import UsageError
from elasticdl.layers import Embedding
from elasticdl.layers.row_initializers import initial_rows
from elasticdl.layers.table_layer import FixedTable
from elasticdl.model.keras_api import keras
from elasticdl.ps.initializers import RowInitializer

TABLE = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
LISTS = st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=5)
COMBINERS = st.sampled_from(["sum", "mean", "sqrtn"])


def layer_of(combiner: str | None) -> Embedding:
    layer = Embedding(3, combiner=combiner)
    order = np.random.default_rng(1).permutation(8)
    layer.attach(FixedTable(order.astype(np.int64), TABLE[order], RowInitializer("zeros")))
    return layer


def expected(ids: list[list[int]], combiner: str) -> np.ndarray:
    divisor = {
        "sum": lambda n: 1.0,
        "mean": lambda n: max(n, 1),
        "sqrtn": lambda n: np.sqrt(max(n, 1)),
    }[combiner]
    return np.stack([TABLE[each].sum(axis=0) / divisor(len(each)) for each in ids])


@settings(max_examples=25, deadline=None)
@given(LISTS, COMBINERS)
def test_ragged_and_sparse_ids_combine_row_by_row(ids: list[list[int]], combiner: str) -> None:
    ragged = tf.ragged.constant(ids, dtype=tf.int64, ragged_rank=1)
    layer = layer_of(combiner)
    np.testing.assert_allclose(layer(ragged), expected(ids, combiner), atol=1e-6)
    np.testing.assert_allclose(layer(ragged.to_sparse()), expected(ids, combiner), atol=1e-6)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_sparse_ids_combine_as_tensorflows_own_lookup(combiner: str) -> None:
    ids = tf.ragged.constant([[1, 2, 2], [7]], dtype=tf.int64).to_sparse()
    theirs = tf.nn.embedding_lookup_sparse(tf.constant(TABLE), ids, None, combiner=combiner)
    np.testing.assert_allclose(layer_of(combiner)(ids), theirs, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), COMBINERS)
def test_dense_ids_combine_along_the_last_axis(rows: int, columns: int, combiner: str) -> None:
    ids = np.random.default_rng(rows * 5 + columns).integers(0, 8, (rows, columns))
    np.testing.assert_allclose(layer_of(combiner)(ids), expected(ids.tolist(), combiner), atol=1e-6)


def test_without_a_combiner_every_id_keeps_its_vector() -> None:
    ids = np.array([[1, 2], [3, 4]], np.int32)
    layer = layer_of(None)
    np.testing.assert_array_equal(layer(ids), TABLE[ids])
    ragged = layer(tf.ragged.constant([[1], [2, 3]], dtype=tf.int64))
    np.testing.assert_array_equal(ragged.flat_values, TABLE[[1, 2, 3]])
    assert ragged.shape.as_list() == [2, None, 3]


def test_inner_ragged_dimensions_combine_innermost_first() -> None:
    ids = tf.ragged.constant([[[1, 2], [3]], [[4]]], dtype=tf.int64)
    combined = layer_of("sum")(ids)
    np.testing.assert_allclose(combined[0], [TABLE[1] + TABLE[2], TABLE[3]], atol=1e-6)


def test_sparse_ids_of_three_dimensions_keep_the_outer_two() -> None:
    ids = tf.ragged.constant([[[1, 2], [3]], [[4], []]], dtype=tf.int64).to_sparse()
    combined = layer_of("sum")(ids)
    np.testing.assert_allclose(combined[0], [TABLE[1] + TABLE[2], TABLE[3]], atol=1e-6)
    np.testing.assert_allclose(combined[1], [TABLE[4], np.zeros(3)], atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "ragged", "sparse"])
def test_functional_models_take_every_kind_of_ids(kind: str) -> None:
    ids = tf.ragged.constant([[1, 2], [3]], dtype=tf.int64)
    value = {"ragged": ids, "sparse": ids.to_sparse(), "dense": tf.constant([[1, 2], [3, 4]])}[kind]
    inputs = keras.Input((None,), dtype="int64", ragged=kind == "ragged", sparse=kind == "sparse")
    model = keras.Model(inputs, keras.layers.Dense(1)(Embedding(3, combiner="mean")(inputs)))
    assert model.output_shape == (None, 1)
    assert model(value).shape == (2, 1)


@pytest.mark.parametrize(
    "initializer",
    [
        RowInitializer("zeros"),
        RowInitializer("constant", a=0.5),
        RowInitializer("uniform", seed=2**62 + 1, a=-0.05, b=0.05),
        RowInitializer("normal", seed=7, a=1.0, b=2.0),
        RowInitializer("truncated_normal", seed=7, a=0.0, b=0.05),
    ],
    ids=lambda each: each.kind,
)
def test_initial_rows_are_those_of_the_parameter_servers(initializer: RowInitializer) -> None:
    edges = np.array([0, 1, -1, 2**63 - 1, -(2**63)], np.int64)
    ids = np.concatenate([edges, np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)])
    ours = initial_rows(initializer, tf.constant(ids), 5).numpy()
    np.testing.assert_allclose(ours, initializer.rows(ids, 5), rtol=3e-7, atol=1e-12)


def test_an_id_that_was_never_trained_has_its_initial_row() -> None:
    initializer = RowInitializer("uniform", seed=3, a=-1.0, b=1.0)
    layer = Embedding(3)
    layer.attach(FixedTable(np.array([5], np.int64), TABLE[:1], initializer))
    ids = np.array([4, 5, -9], np.int64)
    wanted = initializer.rows(ids, 3)
    wanted[1] = TABLE[0]
    np.testing.assert_allclose(layer(ids), wanted, rtol=1e-6)


def test_tables_of_one_seed_start_differently() -> None:
    one, other = (
        Embedding(3, name="a").row_initializer(1),
        Embedding(3, name="b").row_initializer(1),
    )
    assert one.seed != other.seed
    assert one == Embedding(3, name="a").row_initializer(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Embedding(0), "output_dim 0 is not a positive integer"),
        (lambda: Embedding(3, combiner="max"), "combiner 'max' is unknown; use None, 'sum'"),
        (lambda: Embedding(3)(np.zeros((2, 2), np.float32)), "ids are float32, not integers"),
        (
            lambda: Embedding(3)(tf.sparse.from_dense(np.ones((2, 2), np.int64))),
            "sparse ids need a combiner",
        ),
        (
            lambda: Embedding(3, embeddings_initializer="glorot_uniform").row_initializer(0),
            "'GlorotUniform' has no form by id",
        ),
    ],
)
def test_wrong_use_is_said_in_one_line(call, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        call()
    assert message in str(raised.value)


def test_the_layer_can_be_made_again_from_its_config() -> None:
    layer = Embedding(3, combiner="mean", embeddings_initializer=keras.initializers.Constant(2.0))
    again = Embedding.from_config(layer.get_config())
    assert (again.output_dim, again.combiner, again.name) == (3, "mean", layer.name)
    assert again.row_initializer(0) == layer.row_initializer(0)


@pytest.mark.parametrize("option", ["admission_count", "max_rows", "evict_after_steps"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_rule_for_rows_is_a_positive_integer(option: str, value) -> None:
    with pytest.raises(UsageError, match=f"layer 'users': {option} .* is not a positive integer"):
        Embedding(4, name="users", **{option: value})


def test_a_layer_made_again_from_its_config_is_the_same() -> None:
    layer = Embedding(
        4, "sum", embeddings_regularizer="l2", admission_count=3, max_rows=500, evict_after_steps=9
    )
    assert Embedding.from_config(layer.get_config()).get_config() == layer.get_config()
    assert Embedding(4).lifetime_rules.are_any is False


def test_the_old_layer_takes_what_it_took() -> None:
    from elasticdl.python.elasticdl.layers.embedding import Embedding as OldEmbedding

    layer = OldEmbedding(3, input_dim=8, mask_zero=True, input_length=2)
    inputs = keras.Input((2,))  # float32, as it was written then
    outputs = keras.layers.GlobalAveragePooling1D()(layer(inputs))  # leaves masked ids out
    model = keras.Model(inputs, outputs)
    layer.attach(FixedTable(np.arange(8), TABLE, RowInitializer("zeros")))
    found = model(tf.constant([[1.0, 2.0], [3.0, 0.0]]))
    np.testing.assert_allclose(found, [(TABLE[1] + TABLE[2]) / 2, TABLE[3]], atol=1e-6)
    again = OldEmbedding.from_config(layer.get_config())
    assert (again.input_dim, again.mask_zero, again.input_length) == (8, True, 2)
