"""Keras's own Embedding with its matrix on the parameter servers, without a change to the model.

While a model is made, an Embedding that is large enough becomes a `HostedEmbedding` at the moment
in which it would create its matrix, so that no process ever allocates it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.lookup_context import current_context
from elasticdl.layers.row_initializers import row_initializer
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.keras_api import (
    IS_LEGACY,
    id_range,
    keras,
    new_variable_path,
    only_looks_up,
)
from elasticdl.ps.initializers import RowInitializer

KEEP_ALL = -1
"""A threshold that keeps every matrix where it is."""

_FLOAT_BYTES = 4


class HostedEmbedding(keras.layers.Embedding, TableLayer):
    """A ``keras.layers.Embedding`` whose rows are a table: the same ids, shapes, mask and values.

    Ids are 0 … input_dim − 1, and in Keras 3 negative ones count from the end; any other id is an
    error, as in Keras on a CPU. Whatever needs the matrix itself asks for it to be kept local.
    """

    _path_of_matrix: str
    _hosting: Hosting
    _given: np.ndarray | None = None

    @property
    def table_name(self) -> str:
        """The path that the layer's variable would have."""
        return self._path_of_matrix

    def row_initializer(self, seed: int) -> RowInitializer:
        """Return what computes the initial row of an id."""
        initializer = initializer_by_id(self, self.table_name, seed)
        return initializer if initializer is not None and self._given is None else RowInitializer()

    def given_rows(self) -> np.ndarray | None:
        """Return the matrix it was given, or that of an initializer that has no form by id."""
        if self._given is None and initializer_by_id(self, self.table_name, 0) is None:
            shape = (self.input_dim, self.output_dim)
            with tf.init_scope():
                values = self.embeddings_initializer(shape, dtype="float32")
                self._given = np.asarray(values)
        return self._given

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
        raise self._hosting.keep(self)

    def get_weights(self) -> Any:
        """Not there; asking for it keeps the matrix local."""
        raise self._hosting.keep(self)

    def save_own_variables(self, store: Any) -> None:
        """Not there; asking for it keeps the matrix local."""
        raise self._hosting.keep(self)

    def _lookup_dependency(self, name: str, *args: Any, **kwargs: Any) -> Any:
        # TensorFlow restores a checkpoint by this; without an answer it would leave the values out.
        if name in ("embeddings", "_embeddings"):
            raise self._hosting.keep(self)
        return super()._lookup_dependency(name, *args, **kwargs)

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Keep the matrix local, beside those of LoRA."""
        raise self._hosting.keep(self)


# Files of weights name layers by their class.
HostedEmbedding.__name__ = keras.layers.Embedding.__name__


class Hosting:
    """Turns the large Keras embeddings of one model into tables while the model is made.

    Args:
      threshold_bytes: size of the matrix from which on it moves; `KEEP_ALL` moves none.
      kept: paths of matrices that stay local all the same.

    Attributes:
      hosted: the layers that moved.
      wanted: paths of matrices that something asked for.
    """

    def __init__(self, threshold_bytes: int, kept: Collection[str] = ()) -> None:
        self.hosted: list[HostedEmbedding] = []
        self.wanted: set[str] = set()
        self._threshold_bytes = threshold_bytes
        self._kept = kept
        self._paths: Counter[str] = Counter()
        self._is_active = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Do so inside the block; one thread at a time."""
        layer_class = keras.layers.Embedding
        plain_build, plain_call = layer_class.build, layer_class.call
        hosting = self

        def build(layer: keras.layers.Embedding, input_shape: Any = None) -> None:
            if not hosting._takes(layer):
                plain_build(layer, input_shape)

        def call(layer: keras.layers.Embedding, inputs: Any) -> Any:
            # In a layer's first call tf_keras has taken this method before the class changes.
            is_hosted = isinstance(layer, HostedEmbedding)
            return HostedEmbedding.call(layer, inputs) if is_hosted else plain_call(layer, inputs)

        layer_class.build, layer_class.call = build, call
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            layer_class.build, layer_class.call = plain_build, plain_call

    def keep(self, layer: HostedEmbedding) -> UsageError:
        """Note that a layer's matrix is needed, and return the error to be raised."""
        if self._is_active:
            self.wanted.add(layer.table_name)
        return UsageError(
            f"layer '{layer.name}': its matrix is used beside its lookups, but lives on the "
            "parameter servers; use it in the model's call with training=False too, or raise "
            "--embedding_threshold_bytes above its "
            f"{matrix_bytes(layer)} bytes (-1 keeps every matrix local)"
        )

    def _takes(self, layer: keras.layers.Embedding) -> bool:
        if layer.built or not is_large(layer, self._threshold_bytes) or not _is_plain(layer):
            return False
        path = new_variable_path(layer, "embeddings")
        self._paths[path] += 1
        if self._paths[path] > 1:
            path = f"{path}:{self._paths[path] - 1}"
        if path in self._kept:
            return False
        object.__setattr__(layer, "__class__", HostedEmbedding)
        layer.__dict__.update(_path_of_matrix=path, _hosting=self)
        layer.built = True
        self.hosted.append(layer)
        return True


def matrix_bytes(layer: keras.layers.Embedding) -> int:
    """Return the size of an embedding's matrix."""
    return _FLOAT_BYTES * layer.input_dim * layer.output_dim


def is_large(layer: keras.layers.Embedding, threshold_bytes: int) -> bool:
    """Whether an embedding's matrix is to be on the parameter servers by its size."""
    return threshold_bytes != KEEP_ALL and matrix_bytes(layer) >= threshold_bytes


def initializer_by_id(
    layer: keras.layers.Embedding, table: str, seed: int
) -> RowInitializer | None:
    """Return the form by id of a Keras embedding's initializer, or None where it has none."""
    shape = (layer.input_dim, layer.output_dim)
    try:
        return row_initializer(layer.embeddings_initializer, table, seed, shape)
    except UsageError:
        return None


def _is_plain(layer: keras.layers.Embedding) -> bool:
    return (
        type(layer) is keras.layers.Embedding
        and layer.variable_dtype == "float32"
        and only_looks_up(layer)
    )
