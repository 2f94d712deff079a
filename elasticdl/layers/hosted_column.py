"""The embedding column of a feature layer with its matrix on the parameter servers.

Only tf_keras has such layers. A column is a constant that several layers may use; it asks its
layer's state manager for the matrix, and is given the table instead.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.feature_column.feature_column_v2 import CategoricalColumn, EmbeddingColumn

from elasticdl.layers.matrix_table import Matrix, MatrixTable
from elasticdl.model.keras_api import keras

_WEIGHTS = "embedding_weights"
_FROM_TENSORFLOW = "tensorflow.python.ops.init_ops"


class HostedColumn(MatrixTable):
    """The table of one embedding column in one layer.

    Args:
      layer: of tf_keras, which the column is in.
      column: the column.
      path: that the matrix's variable would have.
      trainable: whether the column and the layer were made so.
    """

    embeddings_regularizer = None

    def __init__(
        self, layer: keras.layers.Layer, column: EmbeddingColumn, path: str, trainable: bool
    ) -> None:
        self.name = f"{layer.name}/{column.name}"
        self.output_dim = column.dimension
        self.matrix = matrix_of(layer, column)
        self.path_of_matrix = path
        self._layer = layer
        self._trainable = trainable

    @property
    def trainable(self) -> bool:  # type: ignore[override]
        """Whether rows are trained, as the layer has it by now."""
        return self._trainable and self._layer.trainable

    def looked_up(
        self, column: EmbeddingColumn, categories: CategoricalColumn.IdWeightPair
    ) -> tuple[CategoricalColumn.IdWeightPair, tf.Tensor]:
        """Return the rows of some ids, and the same ids as positions among these rows.

        What has no part in the result is not looked up and has position −1: ids below 0, and,
        where TensorFlow leaves them out, those of weights that are not positive.
        """
        ids, weights = categories.id_tensor, categories.weight_tensor
        has_part = ids.values >= 0
        if weights is not None and column.use_safe_embedding_lookup and column.combiner != "sum":
            has_part &= weights.values > 0
        rows = self.table_rows(tf.cast(tf.boolean_mask(ids.values, has_part), tf.int64))
        # A row more: TensorFlow looks up the first one for an empty record, and drops it.
        rows = tf.concat([rows, tf.zeros([1, self.output_dim])], axis=0)
        rows = tf.cast(rows, self._layer.compute_dtype)
        order = tf.cumsum(tf.cast(has_part, tf.int64), exclusive=True)
        positions = tf.where(has_part, order, tf.constant(-1, tf.int64))
        by_position = tf.SparseTensor(ids.indices, positions, ids.dense_shape)
        return CategoricalColumn.IdWeightPair(by_position, weights), rows


def matrix_of(layer: keras.layers.Layer, column: EmbeddingColumn, variable: Any = None) -> Matrix:
    """Return what the matrix of an embedding column is."""
    return Matrix(
        f"column '{column.name}' of layer '{layer.name}'",
        (column.categorical_column.num_buckets, column.dimension),
        _as_of_keras(column.initializer),
        variable,
    )


def asks_for_matrix(column: Any, name: str) -> bool:
    """Whether the variable that a feature column asks for is a matrix that could be a table."""
    return type(column) is EmbeddingColumn and name == _WEIGHTS and not column.ckpt_to_load_from


def local_columns(layer: keras.layers.Layer) -> list[Matrix]:
    """Return the matrices of a layer's embedding columns that are variables."""
    return [
        matrix_of(layer, column, variables[_WEIGHTS])
        for column, variables in _held(layer).items()
        if isinstance(variables.get(_WEIGHTS), tf.Variable)
    ]


def hosted_columns(layer: keras.layers.Layer) -> list[HostedColumn]:
    """Return the tables of a layer's embedding columns."""
    return [
        variable
        for variables in _held(layer).values()
        for variable in variables.values()
        if isinstance(variable, HostedColumn)
    ]


def held_variables(manager: Any) -> dict[Any, dict[str, Any]]:
    """Return what columns asked a feature layer's state manager for, by column and name."""
    return getattr(manager, "_cols_to_vars_map", {})


def _held(layer: keras.layers.Layer) -> dict[Any, dict[str, Any]]:
    return held_variables(getattr(layer, "_state_manager", None))


def _as_of_keras(initializer: Any) -> Any:
    """Return Keras's initializer that does what one of TensorFlow's own does; others as given."""
    kind = type(initializer)
    same = getattr(keras.initializers, kind.__name__, None)
    if same is None or not kind.__module__.startswith(_FROM_TENSORFLOW):
        return initializer
    config = {name: value for name, value in initializer.get_config().items() if name != "dtype"}
    if "maxval" in config and config["maxval"] is None:
        config["maxval"] = 1.0
    return same(**config)


_plain_lookup = EmbeddingColumn._get_dense_tensor_internal_helper


def _lookup(column: EmbeddingColumn, categories: Any, weights: Any) -> tf.Tensor:
    if isinstance(weights, HostedColumn):
        categories, weights = weights.looked_up(column, categories)
    return _plain_lookup(column, categories, weights)


# A column has no class of its own to change: it is a constant of the user's module.
EmbeddingColumn._get_dense_tensor_internal_helper = _lookup
