"""Which row each id of a table has; rows of ids that went are used again."""

from __future__ import annotations

import numpy as np

from elasticdl.ps.arena import Arena
from elasticdl.ps.id_index import IdIndex

MOST_REMEMBERED = 1 << 20
"""Ids of lookups whose rows are kept: 16 MiB, a hundred minibatches of 10,000 ids."""


class RowDirectory:
    """Gives ids rows 0, 1, 2, …, the last ones that became free first. Not thread-safe."""

    def __init__(self) -> None:
        self.end_row = 0
        """One more than the highest row that was ever in use."""
        self._index = IdIndex()
        self._row_ids = Arena(np.int64, 1)
        self._free = Arena(np.int64, 1)
        self._num_free = 0
        # By number of ids, first and last one; the oldest first.
        self._remembered: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._num_remembered = 0

    def __len__(self) -> int:
        """How many ids have a row."""
        return self.end_row - self._num_free

    @property
    def num_bytes(self) -> int:
        """Memory of ids and index; not what is remembered, which comes and goes."""
        return self.end_row * self._row_ids.row_bytes + self._index.num_bytes

    @property
    def row_ids(self) -> np.ndarray:
        """The id of each row, int64 ``[capacity, 1]``; any number where a row is free."""
        return self._row_ids.rows

    @property
    def free_rows(self) -> np.ndarray:
        """Rows below the end that no id has, int64 ``[m]``."""
        return self._free.rows[: self._num_free, 0].copy()

    def find(self, ids: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """Return each id's row, -1 for unknown ids, and how many are unknown; see `IdIndex`."""
        return self._index.find(ids, rows)

    def remember(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Keep the rows of ids that all have one for a while, for `recall` of the same ids."""
        if not 0 < len(ids) <= MOST_REMEMBERED:
            return
        self._forget(_key(ids))
        self._remembered[_key(ids)] = ids.copy(), rows
        self._num_remembered += len(ids)
        while self._num_remembered > MOST_REMEMBERED:
            self._forget(next(iter(self._remembered)))

    def recall(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the rows of ids that are remembered, once; None where `find` has to."""
        known = self._forget(_key(ids)) if len(ids) else None
        return known[1] if known is not None and np.array_equal(known[0], ids) else None

    def _forget(self, key: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        known = self._remembered.pop(key, None)
        self._num_remembered -= 0 if known is None else key[0]
        return known

    def reserve(self, num_new: int) -> int:
        """Make room for so many new ids, and return one more than the highest row they may get.

        MemoryError leaves everything as it was.
        """
        self._row_ids.reserve(self.end_row + num_new)
        self._index.reserve(len(self) + num_new)
        return self.end_row + num_new

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Give unknown ids, for which there is room, rows; repeats share one."""
        row_ids = self._row_ids.rows.reshape(-1)
        free = self._free.rows.reshape(-1)
        rows, self.end_row, self._num_free = self._index.insert_reusing(
            ids, self.end_row, row_ids, free, self._num_free
        )
        return rows

    def remove(self, rows: np.ndarray) -> None:
        """Take rows from their ids; they are given to others, the last one first."""
        self._remembered.clear()
        self._num_remembered = 0
        self._free.reserve(self._num_free + len(rows))
        self._index.remove(self._row_ids.rows[rows, 0])
        self._free.rows[self._num_free : self._num_free + len(rows), 0] = rows
        self._num_free += len(rows)

    def live_rows(self, first_row: int, end_row: int) -> np.ndarray:
        """Return the rows in a range that some id has, int64 ``[m]``, ascending."""
        rows = np.arange(min(first_row, self.end_row), min(end_row, self.end_row))
        return rows[~np.isin(rows, self.free_rows)] if self._num_free else rows


def _key(ids: np.ndarray) -> tuple[int, int, int]:
    return len(ids), int(ids[0]), int(ids[-1])
