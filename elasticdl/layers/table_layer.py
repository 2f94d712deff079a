"""A layer whose rows are a table of the parameter servers, whichever Keras it is a layer of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.layers.lookup_context import current_context
from elasticdl.layers.row_initializers import initial_rows
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules


class FixedTable(tf.Module):
    """The rows of a trained table; an id that was never trained has its initial row.

    Args:
      ids: distinct, int64 ``[n]``, in any order.
      rows: float32 ``[n, dim]``.
      initializer: of the ids that are not among them.
    """

    def __init__(self, ids: np.ndarray, rows: np.ndarray, initializer: RowInitializer) -> None:
        super().__init__()
        order = np.argsort(ids, kind="stable")
        self.ids = tf.Variable(ids[order], trainable=False, dtype=tf.int64)
        self.rows = tf.Variable(rows[order], trainable=False, dtype=tf.float32)
        self._initializer = initializer

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Return float32 ``[n, dim]`` for int64 ids ``[n]``."""
        num_rows, dim = self.rows.shape
        if num_rows == 0:
            return initial_rows(self._initializer, ids, dim)
        position = tf.minimum(tf.searchsorted(self.ids, ids), num_rows - 1)
        rows = tf.gather(self.rows, position)
        unseen = tf.where(tf.gather(self.ids, position) != ids)
        unseen_ids = tf.gather_nd(ids, unseen)
        return tf.tensor_scatter_nd_update(
            rows, unseen, initial_rows(self._initializer, unseen_ids, dim)
        )


class TableLayer(ABC):
    """What a Keras layer is besides, when its rows are a table. Mixed into a layer class.

    Attributes:
      name: of the layer.
      output_dim: length of a row.
      trainable: whether rows are trained; those of other tables are pulled and never change.
      embeddings_regularizer: maps rows, float32 ``[u, dim]``, to a loss; None without one. It is
        given the distinct rows of a minibatch.
      lifetime_rules: which rows a job makes and keeps.
      casts_ids: whether it takes ids that are floats, and so may have been rounded.
      embeddings_constraint: an error in training, as nobody would apply it.
    """

    name: str
    output_dim: int
    trainable: bool
    embeddings_regularizer: Callable[[Any], Any] | None
    embeddings_constraint: Callable[[Any], Any] | None = None
    lifetime_rules: LifetimeRules = LifetimeRules()
    casts_ids: bool = False
    _table: FixedTable | None = None

    @property
    @abstractmethod
    def table_name(self) -> str:
        """Name of the table, one in the model."""

    @abstractmethod
    def row_initializer(self, seed: int) -> RowInitializer:
        """Return what computes a new id's row in a job with this seed."""

    def given_rows(self) -> np.ndarray | None:
        """Return float32 ``[n, dim]``, the rows that ids 0, 1, … have before training.

        None where the initializer tells all.
        """
        return None

    def attach(self, table: FixedTable) -> None:
        """Answer from this table wherever no training or prediction step feeds the rows."""
        # Not by assignment: Keras would count the rows among the layer's variables.
        self.__dict__["_table"] = table

    def held_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Return float32 ``[n, dim]`` for int64 ids ``[n]`` from the attached table.

        Without a table every row is the initial one, of seed 0.
        """
        if self._table is not None:
            return self._table.lookup(ids)
        given = self.given_rows()
        if given is not None:
            return tf.gather(tf.constant(given), ids)
        return initial_rows(self.row_initializer(seed=0), ids, self.output_dim)

    def table_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Return float32 ``[n, dim]`` for int64 ids ``[n]``, from wherever they come just now."""
        context = current_context()
        rows = self.held_rows(ids) if context is None else context.rows(self, ids)
        rows.set_shape([None, self.output_dim])
        return rows
