"""DeepFM: a factorization machine and a deep network over the same embeddings.

References:
  Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
"""

from __future__ import annotations

import tensorflow as tf

from .click_spec import ClickSpec


class PairwiseProducts(tf.keras.layers.Layer):
    """Sums the dot products of every pair of a record's vectors.

    0.5 * ((sum of vectors)**2 - sum of vectors**2), summed over the dimension: float32
    ``[batch, fields, dim]`` becomes ``[batch, 1]``.
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        of_sum = tf.reduce_sum(vectors, axis=1) ** 2
        sum_of = tf.reduce_sum(vectors**2, axis=1)
        return 0.5 * tf.reduce_sum(of_sum - sum_of, axis=1, keepdims=True)


class DeepFM(ClickSpec):
    """Adds up a linear model, the products of all pairs of ids' vectors, and a deep network."""

    # 325 products are summed up: of larger vectors, they would drown everything else at first.
    initial_deviation = 0.1

    def create_logits(self, numeric: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        vectors = self.vectors(ids)
        x = tf.keras.layers.Concatenate()([numeric, tf.keras.layers.Flatten()(vectors)])
        return tf.keras.layers.Add()(
            [
                tf.keras.layers.Dense(1)(numeric),
                self.weights(ids),
                PairwiseProducts()(vectors),
                tf.keras.layers.Dense(1)(self.deep(x)),
            ]
        )
