"""Functions of one record that are applied to whole minibatches: the same comes out, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.data.example import encode
from elasticdl.model.batching import minibatches_at_once
from elasticdl.model.records_input import minibatches, records_dataset

SIZE = 4
DESCRIPTION = {
    "id": tf.io.FixedLenFeature([], tf.int64),
    "ids": tf.io.FixedLenFeature([3], tf.int64),
    "x": tf.io.FixedLenFeature([2, 2], tf.float32),
    "word": tf.io.FixedLenFeature([], tf.string, "none"),
    "raw": tf.io.FixedLenFeature([], tf.string),
    "few": tf.io.VarLenFeature(tf.int64),
}


def records(count: int = 10) -> list[bytes]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        features: dict[str, Any] = {
            "id": number,
            "ids": rng.integers(0, 99, 3),
            "x": rng.normal(size=4).astype(np.float32) + 3,
            "raw": bytes(rng.integers(0, 255, 6, np.uint8)),
            "few": rng.integers(0, 9, number % 3),
        }
        if number % 4:
            features["word"] = f" Word{number} "
        made.append(encode(features))
    return made


def parsed(record: tf.Tensor) -> dict[str, Any]:
    return tf.io.parse_single_example(record, DESCRIPTION)


def table() -> tf.lookup.StaticHashTable:
    pairs = tf.lookup.KeyValueTensorInitializer(["Word1", "Word6"], tf.constant([7, 8], tf.int64))
    return tf.lookup.StaticHashTable(pairs, -1)


TABLE = table()
BOUNDS = tf.constant([[1, 3, 5]], tf.int64)


@tf.function
def in_a_function(one: dict[str, Any]) -> Any:
    return one["x"] * 2.0, one["id"]


CAN_BE = {
    "floats of logarithms, and ids of floats as they are": lambda one: (
        tf.math.log1p(one["x"]) * 2.0,
        tf.cast(one["x"] * 4.0, tf.int64),
    ),
    "transposed by axes counted from the end": lambda one: tf.transpose(one["x"], [-1, 0]),
    "parsed alone": lambda one: {"id": one["id"], "x": one["x"]},
    "features and labels": lambda one: ({"x": one["x"], "word": one["word"]}, one["id"]),
    "a sparse tensor": lambda one: ({"few": one["few"], "id": one["id"]}, one["x"]),
    "arithmetic": lambda one: tf.math.log1p(one["x"]) / 3.0 - tf.cast(one["id"], tf.float32),
    "broadcast": lambda one: one["x"] + tf.constant([[[1.0, 2.0]], [[3.0, 4.0]]]),
    "of two ranks": lambda one: one["ids"] * one["id"] + tf.constant([1, 2, 3], tf.int64),
    "text": lambda one: tf.strings.lower(tf.strings.strip("a=" + one["word"])),
    "joined text": lambda one: tf.strings.join(["a", one["word"], tf.strings.as_string(one["id"])]),
    "hashed": lambda one: tf.strings.to_hash_bucket_fast([one["word"], "b" + one["word"]], 1000),
    "part of a text": lambda one: tf.strings.substr(one["raw"], 1, 3),
    "replaced": lambda one: tf.strings.regex_replace(one["word"], "[0-9]", "#"),
    "a vocabulary": lambda one: TABLE.lookup(tf.strings.strip(one["word"])),
    "bytes": lambda one: tf.reshape(tf.io.decode_raw(one["raw"], tf.uint8), [2, 3]),
    "reshaped": lambda one: tf.reshape(one["x"], [-1]),
    "transposed": lambda one: tf.transpose(one["x"]),
    "stacked": lambda one: tf.stack([one["id"], one["ids"][1], tf.constant(5, tf.int64)]),
    "concatenated": lambda one: tf.concat([one["ids"], [one["id"]], tf.constant([1], tf.int64)], 0),
    "sliced": lambda one: (one["x"][:, 1], one["x"][-1, tf.newaxis], one["ids"][::-1]),
    "unstacked": lambda one: tuple(tf.unstack(one["x"], axis=-1)),
    "expanded and squeezed": lambda one: tf.squeeze(
        tf.expand_dims(tf.expand_dims(one["x"], 0), -1)
    ),
    "gathered": lambda one: (
        tf.gather(one["ids"], [2, 0]),
        tf.gather(tf.range(200, dtype=tf.int64), one["ids"]),
    ),
    "one-hot": lambda one: tf.one_hot(one["ids"] % 4, 4),
    "reduced": lambda one: (
        tf.reduce_max(one["ids"]),
        tf.reduce_max(one["x"], -1, keepdims=True),
        tf.argmax(one["ids"]),
    ),
    "chosen": lambda one: tf.where(one["ids"] > 50, one["ids"], -one["ids"]),
    "clipped": lambda one: tf.clip_by_value(one["x"], 2.5, 3.5),
    "searched": lambda one: tf.searchsorted(BOUNDS, [[one["id"]]], side="right")[0],
    "the same for all": lambda one: ({"x": one["x"], "c": tf.constant([1.0, 2.0])}, 1.0),
    "a nested function": in_a_function,
}


def batches(function: Callable[[Any], Any], given: list[bytes]) -> tf.data.Dataset | None:
    arrays = [tf.constant(given)]
    source = records_dataset(arrays, (), SIZE)
    parts = tf.data.Dataset.from_tensor_slices(arrays[0]).batch(SIZE)
    return minibatches_at_once(function(source), source, parts, SIZE)


def assert_same(one: tf.data.Dataset, other: tf.data.Dataset) -> None:
    made, expected = list(one), list(other)
    assert len(made) == len(expected)
    for left, right in zip(made, expected, strict=True):
        tf.nest.assert_same_structure(left, right, expand_composites=True)
        for a, b in zip(
            tf.nest.flatten(left, expand_composites=True),
            tf.nest.flatten(right, expand_composites=True),
            strict=True,
        ):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            if a.dtype.is_floating:
                np.testing.assert_allclose(a, b, rtol=2e-7)
            else:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("what", CAN_BE)
def test_what_is_mapped_over_records_gives_the_same_for_a_batch(what: str) -> None:
    def function(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(parsed).map(CAN_BE[what])

    given = records()
    at_once = batches(function, given)
    assert at_once is not None
    one_by_one = function(tf.data.Dataset.from_tensor_slices(given)).batch(SIZE)
    assert_same(at_once, one_by_one)
    assert tf.nest.map_structure(
        lambda spec: spec.shape.rank, at_once.element_spec
    ) == tf.nest.map_structure(lambda spec: spec.shape.rank, one_by_one.element_spec)


def test_what_is_shuffled_comes_in_the_order_that_it_would_come_in() -> None:
    def function(dataset: tf.data.Dataset) -> tf.data.Dataset:
        mapped = dataset.shuffle(5).map(parsed, tf.data.AUTOTUNE).prefetch(2)
        return mapped.shuffle(9, seed=3).map(lambda one: one["id"])

    given = tf.constant(records(30))

    @tf.function
    def both() -> tuple[tf.Tensor, tf.Tensor]:
        source = tf.data.Dataset.from_tensor_slices(given)
        elements = function(source)
        at_once = minibatches_at_once(elements, source, source.batch(SIZE), SIZE)
        assert at_once is not None
        none = tf.zeros([0], tf.int64)
        return tuple(
            each.reduce(none, lambda all, some: tf.concat([all, some], 0))
            for each in (at_once, elements.batch(SIZE))
        )

    tf.random.set_seed(7)
    at_once, one_by_one = both()
    np.testing.assert_array_equal(at_once, one_by_one)
    assert sorted(at_once.numpy()) == list(range(30)) != list(at_once.numpy())


def any_length(record: tf.Tensor) -> Any:
    several = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    return tf.io.parse_single_example(record, {"ids": several})


CANNOT_BE = {
    "random": lambda data: data.map(lambda r: parsed(r)["x"] + tf.random.uniform([])),
    "Python": lambda data: data.map(
        lambda r: tf.ensure_shape(tf.py_function(lambda x: x, [r], tf.string), [])
    ),
    "prints": lambda data: data.map(lambda r: (tf.print(r), parsed(r)["id"])[1]),
    "of any length, padded together": lambda data: data.map(any_length),
    "bytes of any length": lambda data: data.map(
        lambda r: tf.io.decode_raw(parsed(r)["raw"], tf.uint8)[:2]
    ),
    "a component of a sparse tensor": lambda data: data.map(lambda r: parsed(r)["few"].values),
    "a loop": lambda data: data.map(
        lambda r: tf.while_loop(
            lambda i: i < parsed(r)["id"], lambda i: i + 1, [tf.constant(0, tf.int64)]
        )[0]
    ),
    "an id of a logarithm": lambda data: data.map(
        lambda r: tf.cast(tf.math.log(parsed(r)["x"]) / tf.math.log(2.0), tf.int64)
    ),
    "a text of a logarithm, through floats": lambda data: data.map(
        lambda r: tf.strings.as_string(tf.transpose(tf.math.log1p(parsed(r)["x"]) * 2.0))
    ),
    "the floor of a mean": lambda data: data.map(
        lambda r: tf.floor(tf.reduce_mean(parsed(r)["x"]))
    ),
    "a bucket of what another function computed": lambda data: data.map(
        lambda r: tf.sqrt(parsed(r)["x"])
    ).map(lambda x: x > 1.5),
    "a sparse tensor of logarithms": lambda data: data.map(
        lambda r: tf.sparse.map_values(
            tf.math.log1p, tf.sparse.map_values(tf.cast, parsed(r)["few"], tf.float32)
        )
    ).map(lambda one: one.values),
    "names of Examples": lambda data: data.map(
        lambda r: tf.io.parse_single_example(r, DESCRIPTION, example_names="x")["id"]
    ),
    "filtered": lambda data: data.map(parsed).filter(lambda one: one["id"] > 3),
    "repeated": lambda data: data.map(parsed).repeat(2),
    "nothing": lambda data: data,
    "of another dataset": lambda data: tf.data.Dataset.range(3).map(lambda i: i + 1),
}


@pytest.mark.parametrize("what", CANNOT_BE)
def test_what_may_differ_stays_one_by_one(what: str) -> None:
    assert batches(CANNOT_BE[what], records()) is None


def test_a_record_that_is_broken_fails_its_minibatch() -> None:
    given = [*records(5), b"not an example", *records(3)]
    arrays = [tf.constant(given)]
    source = records_dataset(arrays, (), SIZE)
    elements = source.map(lambda record: parsed(record)["id"])
    made = iter(minibatches(elements, (), SIZE, "the function", source, arrays))
    assert next(made).numpy().tolist() == [0, 1, 2, 3]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Could not parse example"):
        next(made)


def test_labels_of_records_of_several_lengths_are_still_an_error() -> None:
    given = [encode({"ids": [1, 2]}), encode({"ids": [3]})]
    arrays = [tf.constant(given)]
    source = records_dataset(arrays, (), SIZE)
    made = iter(minibatches(source.map(any_length), (), SIZE, "the function", source, arrays))
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(made)
