"""What a snapshot keeps of one table, from the moment it begins until it is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from elasticdl.ps.change_marks import Changes
from elasticdl.ps.table_image import TableImage


@dataclass(frozen=True)
class Candidates:
    """Ids that are counted but have no row yet; int64 ``[n]`` each."""

    ids: np.ndarray
    seen: np.ndarray
    last_updates: np.ndarray


@dataclass(frozen=True)
class TableSnapshot:
    """One moment of a table.

    Attributes:
      image: weights and slots, copied row by row as they change.
      changes: only rows that changed since the base are wanted; None where all are.
      last_updates: of all rows, int64 ``[image.num_rows]``; None where rows do not age.
      candidates: None where every id is admitted.
      unadmitted: by local group, as the table counts them.
      evicted: likewise.
    """

    image: TableImage
    changes: Changes | None
    last_updates: np.ndarray | None
    candidates: Candidates | None
    unadmitted: np.ndarray
    evicted: np.ndarray

    @cached_property
    def _changed_rows(self) -> np.ndarray | None:
        return None if self.changes is None else self.changes.rows()

    @property
    def num_positions(self) -> int:
        """Positions to read, each of a row; free rows are left out only as they are read."""
        rows = self._changed_rows
        return self.image.num_rows if rows is None else len(rows)

    def gone(self) -> np.ndarray:
        """Return the ids that went since the base, int64 ``[n]``; some may be back."""
        return np.zeros(0, np.int64) if self.changes is None else self.changes.gone()

    def rows_at(self, first: int, count: int) -> np.ndarray:
        """Return the rows at some positions, int64 ``[<= count]``."""
        end = min(first + count, self.num_positions)
        rows = self._changed_rows
        return np.arange(first, end) if rows is None else rows[first:end]


@dataclass(frozen=True)
class RowPage:
    """Some rows of a snapshot.

    Attributes:
      ids: int64 ``[n]``.
      values: weights and slots side by side, float32 ``[n, columns]``.
      last_updates: int64 ``[n]``; None where rows do not age.
    """

    ids: np.ndarray
    values: np.ndarray
    last_updates: np.ndarray | None
