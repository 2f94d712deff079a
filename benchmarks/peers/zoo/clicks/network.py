"""The network of DeepFM, for any Keras and any way to look up vectors.

References:
  Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .sizes import HIDDEN_UNITS, NUM_FIELDS, NUM_NUMERIC

# Of Adagrad. A row's gradients are of the mean over a minibatch, thousandths: next to accumulators
# that begin with Keras's 0.1, nothing would be learned of ids.
LEARNING_RATE = 0.02
INITIAL_ACCUMULATOR = 1e-6


def logits(keras: Any, numeric: Any, vectors: Any) -> Any:
    """Return the log-odds of a click, ``[batch, 1]``, for symbolic inputs.

    Args:
      keras: Keras 3 or tf_keras.
      numeric: float32 ``[batch, 13]``.
      vectors: of the fields' ids, float32 ``[batch, 26, 16]``.
    """

    class PairwiseProducts(keras.layers.Layer):
        """Sums the dot products of every pair of a record's vectors."""

        def call(self, vectors: Any) -> Any:
            of_sum = tf.reduce_sum(vectors, axis=1) ** 2
            sum_of = tf.reduce_sum(vectors**2, axis=1)
            return 0.5 * tf.reduce_sum(of_sum - sum_of, axis=1, keepdims=True)

    x = keras.layers.Concatenate()([numeric, keras.layers.Flatten()(vectors)])
    for units in HIDDEN_UNITS:
        x = keras.layers.Dense(units, activation="relu")(x)
    return keras.layers.Add()(
        [
            keras.layers.Dense(1)(numeric),
            PairwiseProducts()(vectors),
            keras.layers.Dense(1)(x),
        ]
    )


def model(keras: Any, embedding: Any) -> Any:
    """Return the model of the columns ``numeric`` and ``categorical``.

    Args:
      keras: Keras 3 or tf_keras.
      embedding: the layer that makes vectors of ids, int64 ``[batch, 26]``.
    """
    numeric = keras.Input((NUM_NUMERIC,), name="numeric")
    ids = keras.Input((NUM_FIELDS,), dtype="int64", name="categorical")
    inputs = {"numeric": numeric, "categorical": ids}
    return keras.Model(inputs, logits(keras, numeric, embedding(ids)))
