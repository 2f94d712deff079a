"""A small convolutional network for handwritten digits, as functions of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from elasticdl import Mode

from . import images


def custom_model(hidden_units: int = 128) -> tf.keras.Model:
    """Return two convolutions and a dense layer, through Keras's functional interface."""
    image = tf.keras.Input((images.NUM_PIXELS,), name="image")
    x = tf.keras.layers.Reshape((28, 28, 1))(image)
    for filters in (16, 32):
        x = tf.keras.layers.Conv2D(filters, 5, padding="same", activation="relu")(x)
        x = tf.keras.layers.MaxPooling2D()(x)
    x = tf.keras.layers.Dense(hidden_units, activation="relu")(tf.keras.layers.Flatten()(x))
    return tf.keras.Model({"image": image}, tf.keras.layers.Dense(images.NUM_DIGITS)(x))


def loss(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """Return the minibatch's loss."""
    return images.cross_entropy(labels, predictions)


def optimizer(learning_rate: float = 0.0005) -> tf.keras.optimizers.Optimizer:
    """Return what the parameter servers train with."""
    return tf.keras.optimizers.Adam(learning_rate)


def feed(dataset: tf.data.Dataset, mode: Mode, metadata: Any) -> tf.data.Dataset:
    """Return features and labels of records."""
    return images.read(dataset, mode)


def eval_metrics_fn() -> dict[str, Callable[..., tf.Tensor]]:
    """Return metrics by name, each a function of labels and predictions."""
    return {"accuracy": images.accuracy}
