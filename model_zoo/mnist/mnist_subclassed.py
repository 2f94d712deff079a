"""A small convolutional network for handwritten digits, as a class derived from Keras's Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from elasticdl import Mode

from . import images


class MnistModel(tf.keras.Model):
    """Two convolutions, then a dense layer.

    Args:
      hidden_units: width of the dense layer.
    """

    def __init__(self, hidden_units: int = 128) -> None:
        super().__init__()
        self._layers_in_order = [
            tf.keras.layers.Reshape((28, 28, 1)),
            tf.keras.layers.Conv2D(16, 5, padding="same", activation="relu"),
            tf.keras.layers.MaxPooling2D(),
            tf.keras.layers.Conv2D(32, 5, padding="same", activation="relu"),
            tf.keras.layers.MaxPooling2D(),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(hidden_units, activation="relu"),
            tf.keras.layers.Dense(images.NUM_DIGITS),
        ]

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        x = features["image"]
        for layer in self._layers_in_order:
            x = layer(x)
        return x

    @staticmethod
    def default_input(dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return images.read(dataset, mode)

    @staticmethod
    def default_loss(labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        return images.cross_entropy(labels, predictions)

    @staticmethod
    def default_optimizer(learning_rate: float = 0.0005) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adam(learning_rate)


def eval_metrics_fn() -> dict[str, Callable[..., tf.Tensor]]:
    """Return metrics by name, each a function of labels and predictions."""
    return {"accuracy": images.accuracy}
