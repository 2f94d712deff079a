"""An embedding's matrix of a fixed number of rows, and the table in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.row_initializers import row_initializer
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.keras_api import keras
from elasticdl.ps.initializers import RowInitializer

KEEP_ALL = -1
"""A threshold that keeps every matrix where it is."""

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Matrix:
    """What an embedding's matrix is, or would be.

    Attributes:
      label: whose it is, for messages: "layer 'words'".
      shape: rows and columns.
      initializer: of Keras, or any function of a shape.
      variable: that holds it, None where none does.
    """

    label: str
    shape: tuple[int, int]
    initializer: Any
    variable: Any = None

    @property
    def num_bytes(self) -> int:
        """Size in float32."""
        return _FLOAT_BYTES * self.shape[0] * self.shape[1]

    def is_large(self, threshold_bytes: int) -> bool:
        """Whether it is to be on the parameter servers by its size."""
        return threshold_bytes != KEEP_ALL and self.num_bytes >= threshold_bytes

    def initializer_by_id(self, table: str, seed: int) -> RowInitializer | None:
        """Return the form by id of its initializer, or None where it has none."""
        if not isinstance(self.initializer, keras.initializers.Initializer):
            return None
        try:
            return row_initializer(self.initializer, table, seed, self.shape)
        except UsageError:
            return None

    def initial_values(self) -> np.ndarray:
        """Return what the initializer makes, float32 of its shape."""
        with tf.init_scope():
            return np.asarray(self.initializer(self.shape, dtype=tf.float32))


class MatrixTable(TableLayer):
    """A table in the place of a matrix; its ids are 0 … number of rows − 1.

    Attributes:
      matrix: what it would be.
      path_of_matrix: the path that its variable would have.
    """

    matrix: Matrix
    path_of_matrix: str
    _given: np.ndarray | None = None

    @property
    def table_name(self) -> str:
        """The path that the matrix's variable would have."""
        return self.path_of_matrix

    def row_initializer(self, seed: int) -> RowInitializer:
        """Return what computes the initial row of an id."""
        initializer = self.matrix.initializer_by_id(self.table_name, seed)
        return initializer if initializer is not None and self._given is None else RowInitializer()

    def given_rows(self) -> np.ndarray | None:
        """Return the matrix it was given, or that of an initializer that has no form by id."""
        if self._given is None and self.matrix.initializer_by_id(self.table_name, 0) is None:
            self._given = self.matrix.initial_values()
        return self._given
