"""What a table held at one moment, kept while the table changes: copy on write, row by row."""

from __future__ import annotations

import numpy as np

from elasticdl.ps import image_kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.id_index import IdIndex


class TableImage:
    """The rows of a table as they were when this was made. Not thread-safe: its table's lock holds.

    The table tells it before a row changes; the first time, the row's content is copied. What was
    never told of is read from the table. Nothing is copied when it is made.

    Args:
      num_rows: rows the table has now.
      num_columns: leading columns that are kept: weights, or slots as well.
      free_rows: rows that nobody has now, int64 ``[n]``.
    """

    def __init__(
        self, num_rows: int, num_columns: int, free_rows: np.ndarray | None = None
    ) -> None:
        self.num_rows = num_rows
        self.num_columns = num_columns
        self._num_saved = 0
        # A push touches places all over: of huge pages, it would have to clear all of them.
        self._places = Arena(np.int64, 1, is_short_lived=True)
        self._places.reserve(num_rows)
        self._saved = Arena(np.float32, num_columns, is_short_lived=True)
        self._saved_ids = Arena(np.int64, 1, is_short_lived=True)
        # Ids whose rows the table gave to others since, and where their rows are saved.
        self._displaced: IdIndex | None = None
        self._displaced_ids = Arena(np.int64, 1, is_short_lived=True)
        self._displaced_places = Arena(np.int64, 1, is_short_lived=True)
        self._num_displaced = 0
        if free_rows is not None:
            image_kernels.mark_absent(self._places.rows, num_rows, free_rows)

    @property
    def num_bytes(self) -> int:
        """Memory of what was copied."""
        row_bytes = self._saved.row_bytes + self._saved_ids.row_bytes
        return self._num_saved * row_bytes + self.num_rows * self._places.row_bytes

    def reserve(self, count: int) -> None:
        """Make room for `count` further rows, so that saving them cannot fail.

        Raises:
          MemoryError: the system has no room; nothing was changed.
        """
        self._saved.reserve(self._num_saved + count)
        self._saved_ids.reserve(self._num_saved + count)

    def save(self, rows: np.ndarray, storage: np.ndarray, row_ids: np.ndarray) -> None:
        """Copy rows that are about to change, those that were there and are not saved yet.

        Args:
          rows: int64 ``[n]``.
          storage: the table's rows, float32 ``[capacity, columns]``.
          row_ids: the table's ids by row, int64 ``[capacity, 1]``.
        """
        self.reserve(len(rows))
        self._num_saved = image_kernels.save_rows(
            self._places.rows,
            self.num_rows,
            rows,
            storage,
            row_ids,
            self._saved.rows,
            self._saved_ids.rows,
            self._num_saved,
        )

    def displace(self, rows: np.ndarray, storage: np.ndarray, row_ids: np.ndarray) -> None:
        """Save rows that are about to be taken from their ids: removed, or moved elsewhere."""
        self.save(rows, storage, row_ids)
        rows = rows[rows < self.num_rows]
        places = self._places.rows[rows, 0] - 1
        held = places >= 0
        ids = row_ids[rows[held], 0]
        places = places[held]
        # Another id may have come to the row since: then its own is displaced already.
        own = self._saved_ids.rows[places, 0] == ids
        ids, places = ids[own], places[own]
        if self._displaced is None:
            self._displaced = IdIndex()
        for arena in (self._displaced_ids, self._displaced_places):
            arena.reserve(self._num_displaced + len(ids))
        self._displaced.reserve(self._num_displaced + len(ids))
        positions, self._num_displaced = self._displaced.insert(
            ids, self._num_displaced, self._displaced_ids.rows.reshape(-1)
        )
        self._displaced_places.rows[positions, 0] = places

    def lookup(
        self, ids: np.ndarray, rows: np.ndarray, storage: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """Write the rows of some ids, float32 ``[n, <= num_columns]``, where the image has them.

        Args:
          ids: int64 ``[n]``.
          rows: where the table has them now, -1 for nowhere; written to.
          storage: the table's rows.
          values: written to.

        Returns:
          The positions of ids the image does not have.
        """
        num_missing = image_kernels.gather_image(
            self._places.rows,
            self.num_rows,
            ids,
            rows,
            storage,
            self._saved.rows,
            self._saved_ids.rows,
            values,
        )
        missing = np.flatnonzero(rows < 0) if num_missing else np.zeros(0, np.int64)
        if self._displaced is None or not num_missing:
            return missing
        found, _ = self._displaced.find(ids[missing])
        places = self._displaced_places.rows[found[found >= 0], 0]
        values[missing[found >= 0]] = self._saved.rows[places, : values.shape[1]]
        return missing[found < 0]

    def page(
        self,
        first_row: int,
        max_rows: int,
        num_columns: int,
        storage: np.ndarray,
        row_ids: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return ids, leading columns of rows in a range of rows, and where the next page starts.

        The next page starts at -1 after the last one.
        """
        first_row = min(first_row, self.num_rows)
        end_row = min(first_row + max_rows, self.num_rows)
        rows = np.arange(first_row, end_row)
        _, ids, values = self.read(rows, num_columns, storage, row_ids)
        return ids, values, end_row if end_row < self.num_rows else -1

    def read(
        self, rows: np.ndarray, num_columns: int, storage: np.ndarray, row_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return those of some rows that the image holds, their ids, and their leading columns.

        Args:
          rows: below `num_rows`, int64 ``[n]``.
          num_columns: how many columns.
          storage: the table's rows.
          row_ids: the table's ids by row.
        """
        rows = rows.copy()
        ids = np.empty(len(rows), np.int64)
        values = np.empty((len(rows), num_columns), np.float32)
        count = image_kernels.read_image(
            self._places.rows,
            rows,
            storage,
            row_ids,
            self._saved.rows,
            self._saved_ids.rows,
            ids,
            values,
        )
        return rows[:count], ids[:count], values[:count]
