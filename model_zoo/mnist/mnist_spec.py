"""A small convolutional network for handwritten digits, as an `ElasticDLSpec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode

from . import images


class MnistElasticDLSpec(ElasticDLSpec):
    """Two convolutions, then dense layers.

    Args:
      context: about this process; see `ElasticDLSpec`.
      hidden_units: widths of the dense layers between the convolutions and the ten outputs.
      learning_rate: of Adam.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        hidden_units: Sequence[int] = (128,),
        learning_rate: float = 0.0005,
    ) -> None:
        super().__init__(context)
        self._hidden_units = hidden_units
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        image = tf.keras.Input((images.NUM_PIXELS,), name="image")
        x = tf.keras.layers.Reshape((28, 28, 1))(image)
        for filters in (16, 32):
            x = tf.keras.layers.Conv2D(filters, 5, padding="same", activation="relu")(x)
            x = tf.keras.layers.MaxPooling2D()(x)
        x = tf.keras.layers.Flatten()(x)
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        return tf.keras.Model({"image": image}, tf.keras.layers.Dense(images.NUM_DIGITS)(x))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adam(self._learning_rate)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return images.cross_entropy(labels, outputs)

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return {"accuracy": images.accuracy(labels, predictions)}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return images.read(dataset, mode)
