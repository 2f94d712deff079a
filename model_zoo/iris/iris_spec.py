"""A network of two small layers for Fisher's iris flowers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode

LENGTHS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
NUM_SPECIES = 3
# Of all flowers, in cm: what brings the four lengths to one scale.
MEANS = (5.8, 3.1, 3.8, 1.2)
DEVIATIONS = (0.8, 0.4, 1.8, 0.8)


class IrisSpec(ElasticDLSpec):
    """Tells the species of an iris from four lengths.

    Args:
      context: about this process; see `ElasticDLSpec`.
      hidden_units: widths of the layers before the three outputs.
      learning_rate: of Adam.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        hidden_units: Sequence[int] = (16, 16),
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__(context)
        self._hidden_units = hidden_units
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        lengths = tf.keras.Input((len(LENGTHS),), name="lengths")
        x = tf.keras.layers.Normalization(mean=MEANS, variance=tf.square(DEVIATIONS))(lengths)
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        return tf.keras.Model({"lengths": lengths}, tf.keras.layers.Dense(NUM_SPECIES)(x))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adam(self._learning_rate)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        correct = tf.equal(tf.argmax(predictions, axis=1), labels)
        return {"accuracy": tf.reduce_mean(tf.cast(correct, tf.float32))}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {name: tf.io.FixedLenFeature([], tf.float32) for name in LENGTHS}
        if mode != Mode.PREDICTION:
            description["label"] = tf.io.FixedLenFeature([], tf.int64)

        def parse(record: tf.Tensor) -> Any:
            example = tf.io.parse_single_example(record, description)
            features = {"lengths": tf.stack([example[name] for name in LENGTHS])}
            return features if mode == Mode.PREDICTION else (features, example["label"])

        return dataset.map(parse)
