"""What the models of clicks share: everything but the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

NUM_NUMERIC = 13
NUM_CATEGORICAL = 26
# Updates until the learning rate is half of what it was: large steps find what pairs of ids say,
# small ones then average the noise of records away.
_HALVING_UPDATES = 1000


class ClickSpec(ElasticDLSpec):
    """Predicts clicks from 13 counts and 26 ids of any value; a subclass gives the network.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of an id's vector.
      hidden_units: widths of the deep part's layers.
      learning_rate: of Adam, at first.
    """

    # Of the vectors' initial values. Where layers must find the products of ids themselves, vectors
    # near 0 have gradients near 0, and nothing of pairs is learned for long.
    initial_deviation = 0.3
    # Adam's beta_1.
    momentum = 0.9

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (128, 64),
        learning_rate: float = 0.005,
    ) -> None:
        super().__init__(context)
        self._embedding_dim = embedding_dim
        self._hidden_units = hidden_units
        self._learning_rate = learning_rate

    def create_logits(self, numeric: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Return the log-odds of a click ``[batch, 1]`` for symbolic inputs.

        Args:
          numeric: logarithms of the counts, float32 ``[batch, 13]``.
          ids: int64 ``[batch, 26]``.
        """
        raise NotImplementedError

    def vectors(self, ids: tf.Tensor) -> tf.Tensor:
        """Return a vector for each id, ``[batch, 26, embedding_dim]``."""
        normal = tf.keras.initializers.RandomNormal(stddev=self.initial_deviation, seed=0)
        return Embedding(self._embedding_dim, embeddings_initializer=normal, name="vectors")(ids)

    def weights(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the sum of a weight for each id, ``[batch, 1]``."""
        return Embedding(1, combiner="sum", embeddings_initializer="zeros", name="weights")(ids)

    def deep(self, x: tf.Tensor) -> tf.Tensor:
        """Return what the hidden layers make of ``[batch, n]``."""
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        return x

    def create_model(self) -> tf.keras.Model:
        numeric = tf.keras.Input((NUM_NUMERIC,), name="numeric")
        ids = tf.keras.Input((NUM_CATEGORICAL,), dtype="int64", name="categorical")
        logits = self.create_logits(numeric, ids)
        return tf.keras.Model({"numeric": numeric, "categorical": ids}, logits)

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        rate = tf.keras.optimizers.schedules.InverseTimeDecay(
            self._learning_rate, decay_steps=_HALVING_UPDATES, decay_rate=1
        )
        return tf.keras.optimizers.Adam(rate, beta_1=self.momentum)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, Any]:
        auc = tf.keras.metrics.AUC(num_thresholds=1000, from_logits=True)
        auc.update_state(labels, predictions)
        return {"auc": auc}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {
            "numeric": tf.io.FixedLenFeature([NUM_NUMERIC], tf.float32),
            "categorical": tf.io.FixedLenFeature([NUM_CATEGORICAL], tf.int64),
        }
        if mode != Mode.PREDICTION:
            description["label"] = tf.io.FixedLenFeature([1], tf.int64)

        def parse(record: tf.Tensor) -> Any:
            features = tf.io.parse_single_example(record, description)
            features["numeric"] = tf.math.log1p(features["numeric"])
            if mode == Mode.PREDICTION:
                return features
            return features, tf.cast(features.pop("label"), tf.float32)

        return dataset.map(parse)
