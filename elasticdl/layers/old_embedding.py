"""The embedding layer of the old ElasticDL's model files, by its import path there."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl.layers import embedding
from elasticdl.model.keras_api import IS_LEGACY, keras


@keras.saving.register_keras_serializable(package="elasticdl.old")
class Embedding(embedding.Embedding):
    """As `elasticdl.layers.Embedding`, with the arguments and the liberties of the old layer.

    Ids of any number type are cast to int64.

    Args:
      output_dim: length of a vector.
      input_dim: taken and not needed: any id has a row.
      embeddings_initializer: of a new id's vector.
      mask_zero: whether id 0 is padding, which later layers leave out.
      input_length: taken and not needed.
      combiner: None, "sum", "mean" or "sqrtn".
      kwargs: further arguments of `elasticdl.layers.Embedding`.
    """

    casts_ids = True

    def __init__(
        self,
        output_dim: int,
        input_dim: int | None = None,
        embeddings_initializer: str | keras.initializers.Initializer = "uniform",
        mask_zero: bool = False,
        input_length: int | None = None,
        combiner: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            output_dim,
            combiner=combiner,
            embeddings_initializer=embeddings_initializer,
            **{"autocast": False, **kwargs},  # ids that are numbers of float keep their digits
        )
        self.input_dim = input_dim
        self.input_length = input_length
        self.mask_zero = bool(mask_zero)
        self.supports_masking = self.mask_zero

    def call(self, ids: Any) -> Any:
        """Look up the rows of ids, cast to int64, and combine them."""
        return super().call(tf.cast(ids, tf.int64))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which ids are not 0, where they are masked and each has its own vector."""
        if not self.mask_zero or self.combiner is not None:
            return None
        return tf.not_equal(inputs, 0) if IS_LEGACY else keras.ops.not_equal(inputs, 0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "mask_zero": self.mask_zero,
            "input_length": self.input_length,
        }
