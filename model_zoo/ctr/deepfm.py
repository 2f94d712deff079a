"""DeepFM: a factorization machine and a deep network over the same embeddings.

References:
  Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

NUM_NUMERIC = 13
NUM_CATEGORICAL = 26


class PairwiseProducts(tf.keras.layers.Layer):
    """Sums the dot products of every pair of a record's vectors.

    0.5 * ((sum of vectors)**2 - sum of vectors**2), summed over the dimension: float32
    ``[batch, fields, dim]`` becomes ``[batch, 1]``.
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        of_sum = tf.reduce_sum(vectors, axis=1) ** 2
        sum_of = tf.reduce_sum(vectors**2, axis=1)
        return 0.5 * tf.reduce_sum(of_sum - sum_of, axis=1, keepdims=True)


class DeepFM(ElasticDLSpec):
    """Predicts clicks from 13 counts and 26 ids of any value.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of an id's vector.
      hidden_units: widths of the deep part's layers.
      learning_rate: of Adagrad.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (128, 64),
        learning_rate: float = 0.1,
    ) -> None:
        super().__init__(context)
        self._embedding_dim = embedding_dim
        self._hidden_units = hidden_units
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        numeric = tf.keras.Input((NUM_NUMERIC,), name="numeric")
        ids = tf.keras.Input((NUM_CATEGORICAL,), dtype="int64", name="categorical")
        weights = Embedding(1, combiner="sum", embeddings_initializer="zeros", name="weights")(ids)
        small = tf.keras.initializers.RandomNormal(stddev=0.01, seed=0)
        vectors = Embedding(self._embedding_dim, embeddings_initializer=small, name="vectors")(ids)
        return tf.keras.Model(
            {"numeric": numeric, "categorical": ids},
            tf.keras.layers.Add()(
                [
                    tf.keras.layers.Dense(1)(numeric),
                    weights,
                    PairwiseProducts()(vectors),
                    self._deep_part(numeric, vectors),
                ]
            ),
        )

    def _deep_part(self, numeric: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
        x = tf.keras.layers.Concatenate()([numeric, tf.keras.layers.Flatten()(vectors)])
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        return tf.keras.layers.Dense(1)(x)

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adagrad(self._learning_rate)

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
