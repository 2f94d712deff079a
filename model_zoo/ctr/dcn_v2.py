"""DCN-v2: layers that cross every feature with every other, beside a deep network.

References:
  Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning
  to Rank Systems", WWW 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from .click_spec import ClickSpec


class Cross(tf.keras.layers.Layer):
    """Crosses the first features with what the layer before made of them.

    x0 * (U V x + b) + x, with V of ``rank`` rows: float32 ``[batch, n]`` each.

    Args:
      rank: of the crossing matrix, below ``n``.
    """

    def __init__(self, rank: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rank = rank

    def build(self, input_shape: Any) -> None:
        self._down = tf.keras.layers.Dense(self._rank, use_bias=False, name="down")
        self._up = tf.keras.layers.Dense(input_shape[0][-1], name="up")
        self._down.build(input_shape[1])
        self._up.build((None, self._rank))
        self.built = True

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        first, x = inputs
        return first * self._up(self._down(x)) + x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self._rank}


class DCNv2(ClickSpec):
    """Crosses the numbers and the ids' vectors, beside a deep network over the same.

    Args:
      context: about this process; see `ElasticDLSpec`.
      num_crosses: cross layers, one upon another.
      rank: of their matrices.
      parameters: as `ClickSpec` takes them.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        num_crosses: int = 2,
        rank: int = 32,
        **parameters: Any,
    ) -> None:
        super().__init__(context, **parameters)
        self._num_crosses = num_crosses
        self._rank = rank

    def create_logits(self, numeric: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        vectors = tf.keras.layers.Flatten()(self.vectors(ids))
        first = tf.keras.layers.Concatenate()([numeric, vectors])
        x = first
        for _ in range(self._num_crosses):
            x = Cross(self._rank)((first, x))
        both = tf.keras.layers.Concatenate()([x, self.deep(first)])
        return tf.keras.layers.Dense(1)(both)
