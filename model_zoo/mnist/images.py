"""What the three models of digits share: how the records are read, and what is right."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl import Mode

NUM_PIXELS = 784
NUM_DIGITS = 10


def read(dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
    """Return pixels from 0 to 1 as ``image``, with the digit where it is not to be predicted."""
    description = {"image": tf.io.FixedLenFeature([NUM_PIXELS], tf.float32)}
    if mode != Mode.PREDICTION:
        description["label"] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record: tf.Tensor) -> Any:
        example = tf.io.parse_single_example(record, description)
        features = {"image": example["image"] / 255.0}
        return features if mode == Mode.PREDICTION else (features, example["label"])

    return dataset.map(parse)


def cross_entropy(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """Return the mean over the minibatch, of logits ``[batch, 10]``."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(logits=predictions, labels=labels)
    )


def accuracy(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """Return the share of digits that are told right."""
    correct = tf.equal(tf.argmax(predictions, axis=1), labels)
    return tf.reduce_mean(tf.cast(correct, tf.float32))
