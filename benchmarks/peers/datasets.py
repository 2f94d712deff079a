"""The minibatches as TensorFlow's own programs are given them, again and again."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from benchmarks.peers.contestant import Request
from benchmarks.peers.data import LABEL, Layout


def dataset(request: Request, part: str = "train") -> tf.data.Dataset:
    """Return (features, labels) of one minibatch after the other, once.

    Ready ones are read from their file the first time and then kept in memory. Examples are read
    from a TFRecord file and parsed a minibatch at once.
    """
    if request.form == "ready":
        return _ready(request, part).cache()
    return _parsed(request, part)


def endless(request: Request) -> tf.data.Dataset:
    """Return the minibatches to train on, again and again, some of them made ahead."""
    return dataset(request).repeat().prefetch(tf.data.AUTOTUNE)


def _ready(request: Request, part: str) -> tf.data.Dataset:
    layout = Layout.load(request.place)
    sizes = [layout.minibatch_size * column.record_bytes for column in layout.columns]

    def split(minibatch: tf.Tensor) -> Any:
        features, start = {}, 0
        for column, size in zip(layout.columns, sizes, strict=True):
            values = tf.io.decode_raw(tf.strings.substr(minibatch, start, size), column.dtype)
            features[column.name] = tf.reshape(values, [layout.minibatch_size, *column.shape])
            start += size
        return features, features.pop(LABEL)

    path = str(request.place / f"{part}.minibatches")
    return tf.data.FixedLengthRecordDataset(path, layout.minibatch_bytes).map(split)


def _parsed(request: Request, part: str) -> tf.data.Dataset:
    layout = Layout.load(request.place)
    description = {
        column.name: tf.io.FixedLenFeature(column.shape, column.dtype) for column in layout.columns
    }

    def parse(records: tf.Tensor) -> Any:
        features = tf.io.parse_example(records, description)
        return features, features.pop(LABEL)

    records = tf.data.TFRecordDataset(str(request.place / f"{part}.tfrecord"))
    return records.batch(layout.minibatch_size).map(parse, tf.data.AUTOTUNE)
