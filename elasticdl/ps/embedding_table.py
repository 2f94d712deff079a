"""An embedding table: unbounded int64 ids, one row of weights and optimizer slots each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from elasticdl.errors import ElasticDLError
from elasticdl.ps import kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.arrays import require
from elasticdl.ps.id_index import IdIndex
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig, apply_rows
from elasticdl.ps.table_image import TableImage


class TableFullError(ElasticDLError, MemoryError):
    """An embedding table would exceed the number of rows it is allowed; nothing was changed."""


class EmbeddingTable:
    """Rows of one table on one partition. Not thread-safe: callers lock; kernels release the GIL.

    Every method checks its arguments, and has room for what it needs, before it changes anything.

    Args:
      name: as in the model.
      dim: weights of a row.
      optimizer: decides the slots, and how `apply` updates.
      initializer: what an unseen id's row is.
      max_rows: `TableFullError` beyond.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        optimizer: OptimizerConfig,
        initializer: RowInitializer,
        max_rows: int = 1 << 40,
    ) -> None:
        if dim < 1:
            raise ValueError(f"table '{name}': dim is {dim}; it must be at least 1")
        self.name = name
        self.dim = dim
        self.optimizer = optimizer
        self.initializer = initializer
        self.max_rows = max_rows
        self._num_rows = 0
        self._image: TableImage | None = None
        self._index = IdIndex()
        self._row_ids = Arena(np.int64, 1)
        self._storage = Arena(np.float32, dim * (1 + optimizer.num_slots))
        self._initial_slots = np.repeat(
            np.array(
                [optimizer.initial_slot_value(slot) for slot in range(optimizer.num_slots)],
                np.float32,
            ),
            dim,
        )

    def __len__(self) -> int:
        """How many rows exist."""
        return self._num_rows

    @property
    def num_bytes(self) -> int:
        """Memory in use: weights, slots and id of each row, the index, and a pinned image."""
        row_bytes = self._storage.row_bytes + self._row_ids.row_bytes
        image = 0 if self._image is None else self._image.num_bytes
        return self._num_rows * row_bytes + self._index.num_bytes + image

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return weights, float32 ``[n, dim]``; unseen ids' are initial ones and stay unseen."""
        ids = require("ids", ids, np.int64, (None,))
        rows, num_missing = self._index.find(ids)
        values = np.empty((len(ids), self.dim), np.float32)
        kernels.gather_rows(self._storage.rows, rows, values)
        if num_missing:
            missing = rows < 0
            values[missing] = self.initializer.rows(ids[missing], self.dim)
        return values

    def reserve(self, ids: np.ndarray) -> np.ndarray:
        """Create the rows of unseen ids with initial weights and slots.

        Returns:
          The row of each id, int64 ``[n]``.

        Raises:
          TableFullError: `max_rows` would be exceeded.
          MemoryError: the system has no room.
        """
        ids = require("ids", ids, np.int64, (None,))
        if self._image is not None:
            self._image.reserve(len(ids))
        rows, num_missing = self._index.find(ids)
        if not num_missing:
            return rows
        missing = rows < 0
        missing_ids = ids[missing]
        if self._num_rows + num_missing > self.max_rows:  # perhaps only because of repeats
            missing_ids, inverse = np.unique(missing_ids, return_inverse=True)
            if self._num_rows + len(missing_ids) > self.max_rows:
                raise TableFullError(
                    f"table '{self.name}': {self._num_rows} rows and {len(missing_ids)} new ones; "
                    f"max_rows is {self.max_rows}"
                )
        else:
            inverse = None
        num_rows = self._num_rows + len(missing_ids)
        weights = self.initializer.rows(missing_ids, self.dim)
        self._storage.reserve(num_rows)
        self._row_ids.reserve(num_rows)
        self._index.reserve(num_rows)
        new_rows, num_rows = self._index.insert(
            missing_ids, self._num_rows, self._row_ids.rows.reshape(-1)
        )
        kernels.scatter_rows(self._storage.rows, new_rows, 0, weights)
        self._storage.rows[self._num_rows : num_rows, self.dim :] = self._initial_slots
        self._num_rows = num_rows
        rows[missing] = new_rows if inverse is None else new_rows[inverse]
        return rows

    def apply(
        self, ids: np.ndarray, gradients: np.ndarray, learning_rate: float, iterations: np.ndarray
    ) -> None:
        """Update the rows of some ids, created where unseen.

        Args:
          ids: distinct ids, int64 ``[n]``.
          gradients: one summed gradient per id, float32 ``[n, dim]``.
          learning_rate: of this step.
          iterations: 1 for an id's group's first update, int64 ``[n]``.
        """
        ids = require("ids", ids, np.int64, (None,))
        gradients = require("gradients", gradients, np.float32, (len(ids), self.dim))
        iterations = require("iterations", iterations, np.int64, (len(ids),))
        rows = self.reserve(ids)
        self._save(rows)
        apply_rows(self.optimizer, self._storage.rows, rows, gradients, learning_rate, iterations)

    def load(self, ids: np.ndarray, weights: np.ndarray, slots: np.ndarray | None = None) -> None:
        """Set rows, created where unseen.

        Args:
          ids: int64 ``[n]``.
          weights: float32 ``[n, dim]``.
          slots: float32 ``[n, num_slots * dim]``; initial ones without it.
        """
        ids = require("ids", ids, np.int64, (None,))
        weights = require("weights", weights, np.float32, (len(ids), self.dim))
        slots_shape = (len(ids), len(self._initial_slots))
        if slots is None:
            slots = np.broadcast_to(self._initial_slots, slots_shape)
        slots = require("slots", slots, np.float32, slots_shape)
        rows = self.reserve(ids)
        self._save(rows)
        kernels.scatter_rows(self._storage.rows, rows, 0, weights)
        kernels.scatter_rows(self._storage.rows, rows, self.dim, slots)

    # ------------------------------------------------------------------ the pin

    def pin(self, with_slots: bool = False) -> None:
        """Keep what the table holds now, until `unpin`, while it changes; an older image goes."""
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        self._image = TableImage(self._num_rows, num_columns)

    def unpin(self) -> None:
        """Let the image go."""
        self._image = None

    def pinned_lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return what `lookup` would have returned at the time of `pin`."""
        assert self._image is not None
        ids = require("ids", ids, np.int64, (None,))
        rows, _ = self._index.find(ids)
        values = np.empty((len(ids), self.dim), np.float32)
        missing = self._image.lookup(ids, rows, self._storage.rows, values)
        if len(missing):
            values[missing] = self.initializer.rows(ids[missing], self.dim)
        return values

    def pinned_page(
        self, first_row: int, max_rows: int, with_slots: bool = False
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return a page of the rows there were at the time of `pin`, and where the next starts.

        The next page's first row is -1 at the end; the rest is as `page` returns it. Slots are
        there if `pin` was asked to keep them.
        """
        assert self._image is not None
        if first_row < 0 or max_rows < 0:
            raise ValueError(f"page of {max_rows} rows from {first_row}; neither may be negative")
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        if num_columns > self._image.num_columns:
            raise ValueError(f"table '{self.name}': the pin does not hold the optimizer's slots")
        return self._image.page(
            first_row, max_rows, num_columns, self._storage.rows, self._row_ids.rows
        )

    def _save(self, rows: np.ndarray) -> None:
        """Keep what the image needs of rows about to change."""
        if self._image is not None:
            self._image.save(rows, self._storage.rows, self._row_ids.rows)

    # ------------------------------------------------------------------ everything

    def page(
        self, first_row: int, max_rows: int, with_slots: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of consecutive rows in the order of their creation.

        Returns:
          ids int64 ``[n]``, and float32 ``[n, dim]`` weights or, with slots beside them,
          ``[n, dim * (1 + num_slots)]``; fewer than `max_rows` only at the end.
        """
        if first_row < 0 or max_rows < 0:
            raise ValueError(f"page of {max_rows} rows from {first_row}; neither may be negative")
        page = slice(min(first_row, self._num_rows), min(first_row + max_rows, self._num_rows))
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        return self._row_ids.rows[page, 0].copy(), self._storage.rows[page, :num_columns].copy()

    def pages(
        self, page_rows: int = 65536, with_slots: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over all rows, page by page; see `page`."""
        for first_row in range(0, self._num_rows, page_rows):
            yield self.page(first_row, page_rows, with_slots)
