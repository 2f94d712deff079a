"""Keras's own Embedding with its matrix on the parameter servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.lookup_context import current_context
from elasticdl.layers.matrix_table import MatrixTable
from elasticdl.model.keras_api import IS_LEGACY, id_range, keras


class HostedEmbedding(keras.layers.Embedding, MatrixTable):
    """A ``keras.layers.Embedding`` whose rows are a table: the same ids, shapes, mask and values.

    Ids are 0 … input_dim − 1, and in Keras 3 negative ones count from the end; any other id is an
    error, as in Keras on a CPU. Whatever needs the matrix itself asks for it to be kept local.
    """

    _keep: Callable[[MatrixTable], UsageError]

    def set_weights(self, weights: Any) -> None:
        """Take the values that the rows are to start from."""
        (values,) = weights
        if np.shape(values) != (self.input_dim, self.output_dim):
            raise ValueError(
                f"Layer {self.name} weight shape ({self.input_dim}, {self.output_dim}) is not "
                f"compatible with provided weight shape {np.shape(values)}."
            )
        self._given = np.asarray(values, np.float32)

    def load_own_variables(self, store: Any) -> None:
        """Take the values that the rows are to start from out of a file of weights."""
        self.set_weights([store["0"]])

    def call(self, inputs: Any) -> Any:
        """Look up the rows of ids."""
        if isinstance(inputs, tf.SparseTensor):
            inputs = tf.sparse.to_dense(inputs)  # Keras gives the row of id 0 where there is none
            if IS_LEGACY:
                inputs = tf.maximum(inputs, tf.zeros([], inputs.dtype))  # and for negative ones
        if isinstance(inputs, tf.RaggedTensor):
            return inputs.with_flat_values(self.call(inputs.flat_values))
        ids = self._checked(tf.cast(inputs, tf.int64))
        rows = tf.cast(self.table_rows(tf.reshape(ids, [-1])), self.compute_dtype)
        vectors = tf.reshape(rows, tf.concat([tf.shape(ids), [self.output_dim]], axis=0))
        return tf.ensure_shape(vectors, [*ids.shape.as_list(), self.output_dim])

    def _autographed_call(self) -> Any:
        # tf_keras would convert `call`, and wrap the errors it raises.
        return self.call

    def _checked(self, ids: tf.Tensor) -> tf.Tensor:
        context = current_context()
        if context is not None and not context.checks_ids:
            return ids
        lowest, end = id_range(self)
        outside = (ids < lowest) | (ids >= end)
        from_start = tf.where(ids < 0, ids + self.input_dim, ids)
        what = f"layer '{self.name}': an id is not in [0, {self.input_dim}):"
        check = tf.debugging.Assert(
            tf.logical_not(tf.reduce_any(outside)), [what, tf.boolean_mask(ids, outside)[:1]]
        )
        with tf.control_dependencies([] if check is None else [check]):
            return tf.identity(from_start)

    @property
    def embeddings(self) -> Any:
        """Not there; asking for it keeps the matrix local."""
        raise self._keep(self)

    def get_weights(self) -> Any:
        """Not there; asking for it keeps the matrix local."""
        raise self._keep(self)

    def save_own_variables(self, store: Any) -> None:
        """Not there; asking for it keeps the matrix local."""
        raise self._keep(self)

    def _lookup_dependency(self, name: str, *args: Any, **kwargs: Any) -> Any:
        # TensorFlow restores a checkpoint by this; without an answer it would leave the values out.
        if name in ("embeddings", "_embeddings"):
            raise self._keep(self)
        return super()._lookup_dependency(name, *args, **kwargs)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Keep the matrix local, beside those of LoRA."""
        raise self._keep(self)


# Files of weights name layers by their class.
HostedEmbedding.__name__ = keras.layers.Embedding.__name__
