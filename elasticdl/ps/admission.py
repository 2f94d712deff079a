"""Ids that were seen, but not often enough yet to have a row."""

from __future__ import annotations

import numpy as np

from elasticdl.ps.arena import Arena
from elasticdl.ps.lifetimes import GroupSteps, Lifetimes
from elasticdl.ps.row_directory import RowDirectory
from elasticdl.ps.table_snapshot import Candidates

MAX_CANDIDATES = 1 << 20
"""Ids without a row that a table keeps counting, over all groups: less than 100 MiB."""


class Admission:
    """Counts, exactly and by id, in how many updates an id was seen. Not thread-safe.

    Memory is bounded: of a group's full share the id not seen for longest is forgotten.

    Args:
      count: updates, the last one included, that admit an id.
      evict_after_steps: an id is forgotten as a row is evicted. 0: never.
      num_groups: groups of this partition.
      quota: ids counted in a group.
    """

    def __init__(self, count: int, evict_after_steps: int, num_groups: int, quota: int) -> None:
        self._count = count
        self._directory = RowDirectory()
        self._lifetimes = Lifetimes(num_groups, quota, evict_after_steps)
        self._seen = Arena(np.int64, 1)

    def __len__(self) -> int:
        """How many ids are being counted."""
        return len(self._directory)

    @property
    def num_bytes(self) -> int:
        """Memory in use."""
        row_bytes = self._seen.row_bytes + self._lifetimes.row_bytes
        return self._directory.num_bytes + self._directory.end_row * row_bytes

    def candidates(self) -> Candidates:
        """Return copies of the ids being counted, and of what is known of them."""
        rows = self._directory.live_rows(0, self._directory.end_row)
        return Candidates(
            self._directory.row_ids[rows, 0],
            self._seen.rows[rows, 0],
            self._lifetimes.last_updates(rows),
        )

    def restore(self, candidates: Candidates, groups: np.ndarray) -> None:
        """Count on from there, where nothing is counted yet.

        Args:
          candidates: distinct ids.
          groups: local position of each id's group, int64 ``[n]``.
        """
        self.reserve(len(candidates.ids))
        rows = self._directory.add(candidates.ids)
        self._seen.rows[rows, 0] = candidates.seen
        self._lifetimes.put(rows, groups, candidates.last_updates)
        self._lifetimes.put_in_order(rows, candidates.ids)

    def reserve(self, num_new: int) -> None:
        """Make room for so many ids; MemoryError leaves everything as it was."""
        end_row = self._directory.reserve(num_new)
        self._seen.reserve(end_row)
        self._lifetimes.reserve(end_row)

    def see(self, ids: np.ndarray, steps: GroupSteps) -> np.ndarray:
        """Count an update in which these ids were seen, for which there is room.

        Args:
          ids: distinct ids without a row, ascending, int64 ``[n]``.
          steps: the update, in the order of the ids.

        Returns:
          bool ``[n]``: which are admitted now; they are not counted any more.
        """
        rows, _ = self._directory.find(ids)
        known = rows >= 0
        self._directory.remove(self._lifetimes.begin(rows, steps))
        counted = rows != -2
        new = counted & ~known
        rows[new] = self._directory.add(ids[new])
        self._seen.rows[rows[new], 0] = 0
        self._seen.rows[rows[counted], 0] += 1
        self._lifetimes.end(
            rows[counted], steps.groups[counted], steps.iterations[steps.groups[counted]]
        )
        admitted = np.zeros(len(ids), bool)
        admitted[counted] = self._seen.rows[rows[counted], 0] >= self._count
        self._lifetimes.drop(rows[admitted])
        self._directory.remove(rows[admitted])
        return admitted
