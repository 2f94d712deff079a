"""Which rows of a table live: admission by count, eviction by age and by capacity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elasticdl.ps import lifetime_kernels as kernels
from elasticdl.ps.arena import Arena

UNLIMITED = 1 << 60


@dataclass(frozen=True)
class GroupSteps:
    """An update of a partition, as its groups count it.

    Attributes:
      groups: the local position of each id's group, int64 ``[n]``.
      iterations: the last update of each group, this one included, int64 ``[groups]``.
      applied: which groups take part in this one, bool ``[groups]``.
    """

    groups: np.ndarray
    iterations: np.ndarray
    applied: np.ndarray

    def of(self, chosen: np.ndarray) -> GroupSteps:
        """Return the same update for some of the ids, by position or by mask."""
        return GroupSteps(self.groups[chosen], self.iterations, self.applied)


class Lifetimes:
    """The rows of each bucket group in the order of their last update, then of their ids.

    The order is a function of what is kept by row, so that rows can be moved with it. Not
    thread-safe.

    Args:
      num_groups: groups of this partition.
      quota: rows a group may have.
      evict_after_steps: 0: rows do not age.
    """

    def __init__(self, num_groups: int, quota: int, evict_after_steps: int) -> None:
        self._links = Arena(np.int64, 4)
        self._ends = kernels.empty_ends(num_groups)
        self._quota = quota
        self._evict_after_steps = evict_after_steps

    @property
    def row_bytes(self) -> int:
        """Memory of a row."""
        return self._links.row_bytes

    def reserve(self, num_rows: int) -> None:
        """Make room for rows below this one; MemoryError leaves everything as it was."""
        self._links.reserve(num_rows)

    def last_updates(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return the last update of some rows, int64 ``[n]``; `NEVER` for those without an id."""
        return self._links.rows[rows, kernels.LAST]

    def begin(self, rows: np.ndarray, steps: GroupSteps) -> np.ndarray:
        """Begin an update of some ids: drop what is too old, and what is in the way of new ids.

        Args:
          rows: of the ids in ascending order, int64 ``[n]``, -1 for those without; in their places
            -2 is written where the group is full of rows of this very update.
          steps: the update, ids in the same order.

        Returns:
          The rows that are dropped, int64 ``[m]``.
        """
        links, ends = self._links.rows, self._ends
        kernels.take_out(links, ends, rows)
        expired = np.zeros(0, np.int64)
        if self._evict_after_steps:
            horizons = np.where(
                steps.applied, steps.iterations - self._evict_after_steps, kernels.NEVER
            )
            expired = np.empty(kernels.count_expired(links, ends, horizons), np.int64)
            kernels.drop_expired(links, ends, horizons, expired)
        in_the_way = np.empty(len(rows), np.int64)
        count = kernels.make_room(links, ends, rows, steps.groups, self._quota, in_the_way)
        return np.concatenate([expired, in_the_way[:count]])

    def end(self, rows: np.ndarray, groups: np.ndarray, lasts: np.ndarray) -> None:
        """End it: these rows, of ascending ids, were updated just now."""
        kernels.put_back(self._links.rows, self._ends, rows, groups, lasts)

    def count_in(self, groups: np.ndarray) -> bool:
        """Count in new rows of some groups, unless one of these has no room for its own."""
        counts = self._ends[:, kernels.COUNT] + np.bincount(groups, minlength=len(self._ends))
        if (counts > self._quota).any():
            return False
        self._ends[:, kernels.COUNT] = counts
        return True

    def groups_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the group of each row that an id has or had last, int64 ``[n]``."""
        return self._links.rows[rows, kernels.GROUP]

    def take_out(self, rows: np.ndarray) -> None:
        """Take rows out of the order until `end` puts them back."""
        kernels.take_out(self._links.rows, self._ends, rows)

    def put(self, rows: np.ndarray, groups: np.ndarray, lasts: np.ndarray) -> None:
        """Say when rows were last updated; `put_in_order` follows."""
        links = self._links.rows
        links[rows, kernels.GROUP], links[rows, kernels.LAST] = groups, lasts

    def put_in_order(self, rows: np.ndarray, ids: np.ndarray) -> None:
        """Make these the rows there are, ids int64 ``[n]``; `put` was told of each."""
        groups, lasts = self._links.rows[rows, kernels.GROUP], self.last_updates(rows)
        order = np.lexsort((ids, lasts))
        self._ends[:] = kernels.empty_ends(len(self._ends))
        self._ends[:, kernels.COUNT] = np.bincount(groups, minlength=len(self._ends))
        self.end(rows[order], groups[order], lasts[order])

    def drop(self, rows: np.ndarray) -> None:
        """Drop some rows."""
        kernels.drop_rows(self._links.rows, self._ends, rows)
