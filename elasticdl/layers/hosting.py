"""Matrices of embeddings on the parameter servers, without a change to the model.

While a model is made, a `keras.layers.Embedding` that is large enough becomes a `HostedEmbedding`
at the moment in which it would create its matrix, and an embedding column of a feature layer is
given a `HostedColumn`, so that no process ever allocates the matrix.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.layers.hosted_column import (
    HostedColumn,
    asks_for_matrix,
    held_variables,
    hosted_columns,
    local_columns,
    matrix_of,
)
from elasticdl.layers.hosted_embedding import HostedEmbedding
from elasticdl.layers.matrix_table import Matrix, MatrixTable
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.keras_api import (
    embedding_matrix,
    keras,
    new_variable_path,
    only_looks_up,
    state_managers,
)


class Hosting:
    """Turns the large embeddings of one model into tables while the model is made.

    Args:
      threshold_bytes: size of the matrix from which on it moves; `KEEP_ALL` moves none.
      kept: paths of matrices that stay local all the same.

    Attributes:
      hosted: the tables.
      wanted: paths of matrices that something asked for.
    """

    def __init__(self, threshold_bytes: int, kept: Collection[str] = ()) -> None:
        self.hosted: list[MatrixTable] = []
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
        plain_creates = [(each, each.create_variable) for each in state_managers]
        for each, plain_create in plain_creates:
            each.create_variable = self._creating(plain_create)
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            layer_class.build, layer_class.call = plain_build, plain_call
            for each, plain_create in plain_creates:
                each.create_variable = plain_create

    def keep(self, table: MatrixTable) -> UsageError:
        """Note that a matrix is needed, and return the error to be raised."""
        if self._is_active:
            self.wanted.add(table.table_name)
        return UsageError(
            f"{table.matrix.label}: its matrix is used beside its lookups, but lives on the "
            "parameter servers; use it in the model's call with training=False too, or raise "
            "--embedding_threshold_bytes above its "
            f"{table.matrix.num_bytes} bytes (-1 keeps every matrix local)"
        )

    def _takes(self, layer: keras.layers.Embedding) -> bool:
        matrix = _of_embedding(layer)
        if layer.built or not matrix.is_large(self._threshold_bytes) or not _is_plain(layer):
            return False
        path = self._path_if_free(new_variable_path(layer, "embeddings"))
        if path is None:
            return False
        object.__setattr__(layer, "__class__", HostedEmbedding)
        layer.__dict__.update(path_of_matrix=path, matrix=matrix, _keep=self.keep)
        layer.built = True
        self.hosted.append(layer)
        return True

    def _creating(self, plain_create: Callable[..., Any]) -> Callable[..., Any]:
        """Return what answers the columns of a feature layer that ask for a variable."""

        @functools.wraps(plain_create)
        def create_variable(
            manager: Any, feature_column: Any, name: str, *args: Any, **kwargs: Any
        ) -> Any:
            asked = held_variables(manager)[feature_column]
            if asks_for_matrix(feature_column, name) and name not in asked:
                table = self._hosted_column(manager, feature_column, name)
                if table is not None:
                    asked[name] = table
                    return table
            return plain_create(manager, feature_column, name, *args, **kwargs)

        return create_variable

    def _hosted_column(self, manager: Any, column: Any, name: str) -> HostedColumn | None:
        layer = manager._layer
        of_layer = f"{column.name}/{name}"
        is_large = matrix_of(layer, column).is_large(self._threshold_bytes)
        if not is_large or _restores_later(layer, of_layer):
            return None
        path = self._path_if_free(new_variable_path(layer, name))
        if path is None:
            return None
        table = HostedColumn(layer, column, path, manager._trainable and column.trainable)
        self._guard_restoring(layer, of_layer, table)
        self.hosted.append(table)
        return table

    def _guard_restoring(self, layer: keras.layers.Layer, child: str, table: HostedColumn) -> None:
        """Ask for the matrix where a TensorFlow checkpoint has its values, as HostedEmbedding."""
        plain_lookup = layer._lookup_dependency

        def lookup(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == child:
                raise self.keep(table)
            return plain_lookup(name, *args, **kwargs)

        layer.__dict__["_lookup_dependency"] = lookup

    def _path_if_free(self, path: str) -> str | None:
        """Return the path that a variable made now would have, None where it is to be made."""
        self._paths[path] += 1
        if self._paths[path] > 1:
            path = f"{path}:{self._paths[path] - 1}"
        return None if path in self._kept else path


def tables_in(layer: keras.layers.Layer) -> list[TableLayer]:
    """Return the tables that a layer, not those in it, looks up: itself, or its columns."""
    return [layer] if isinstance(layer, TableLayer) else list(hosted_columns(layer))


def matrices_in(layer: keras.layers.Layer) -> list[Matrix]:
    """Return the matrices of embeddings that a layer, not those in it, has as variables."""
    if isinstance(layer, keras.layers.Embedding) and not isinstance(layer, TableLayer):
        return [_of_embedding(layer)]
    return local_columns(layer)


def _of_embedding(layer: keras.layers.Embedding) -> Matrix:
    return Matrix(
        f"layer '{layer.name}'",
        (layer.input_dim, layer.output_dim),
        layer.embeddings_initializer,
        embedding_matrix(layer),
    )


def _is_plain(layer: keras.layers.Embedding) -> bool:
    return (
        type(layer) is keras.layers.Embedding
        and layer.variable_dtype == "float32"
        and only_looks_up(layer)
        and not _restores_later(layer, "embeddings")
    )


def _restores_later(layer: keras.layers.Layer, child: str) -> bool:
    """Whether a TensorFlow checkpoint that was restored has values for what is not made yet."""
    return child in getattr(layer, "_self_unconditional_deferred_dependencies", {})
