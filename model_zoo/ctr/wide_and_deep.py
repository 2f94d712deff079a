"""Wide & deep: a linear model of the ids beside a deep network over their vectors.

References:
  Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
"""

from __future__ import annotations

import tensorflow as tf

from .click_spec import ClickSpec


class WideAndDeep(ClickSpec):
    """Adds up a linear model and a deep network."""

    def create_logits(self, numeric: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        vectors = tf.keras.layers.Flatten()(self.vectors(ids))
        x = tf.keras.layers.Concatenate()([numeric, vectors])
        return tf.keras.layers.Add()(
            [
                tf.keras.layers.Dense(1)(numeric),
                self.weights(ids),
                tf.keras.layers.Dense(1)(self.deep(x)),
            ]
        )
