"""Wide & deep: a linear model of the ids beside a deep network over their vectors.

References:
  Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from .click_spec import ClickSpec


class WideAndDeep(ClickSpec):
    """Adds up a linear model and a deep network.

    Its layers have to find the products of ids themselves, so they are wider, and steps larger.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of an id's vector.
      hidden_units: widths of the deep part's layers.
      learning_rate: of Adam, at first.
    """

    # Rows of tables move only with their ids, by a momentum that may be old: less of it came nearer
    # to the best AUC than 0.9 did.
    momentum = 0.5

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (256, 128),
        learning_rate: float = 0.007,
    ) -> None:
        super().__init__(context, embedding_dim, hidden_units, learning_rate)

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
