"""Which row an id has: a hash index that grows by small steps."""

from __future__ import annotations

import os

import numpy as np

from elasticdl.ps import kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.row_parts import in_parts

_NONE = np.zeros(0, np.int64)
_SLOTS_PER_ID = 2.5
"""Segments not split yet in a round are twice as full as the others: 80 % at most."""


class IdIndex:
    """Maps any int64 ids to rows 0, 1, 2, … in the order of their insertion. Not thread-safe.

    Linear hashing (Litwin, "Linear hashing: a new tool for file and table addressing", 1980) over
    segments of 4096 slots with open addressing: an insertion pays for about as many moves as it
    brings ids, never for a rehash of everything.

    Args:
      seed: of the hash; random by default, so that nobody can choose ids that collide.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = np.uint64(int.from_bytes(os.urandom(8), "little") if seed is None else seed)
        self._slots = Arena(np.int64, 2)
        self._num_segments = 1

    @property
    def num_bytes(self) -> int:
        """Memory of all slots."""
        return self._num_segments * kernels.SEGMENT_SLOTS * self._slots.row_bytes

    def find(self, ids: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """Return each id's row, int64 ``[n]`` with -1 for unknown ids, and how many are unknown.

        Args:
          ids: int64 ``[n]``.
          rows: where the rows go; a new array without it.
        """
        slots, num_segments = self._slots.rows, np.uint64(self._num_segments)
        rows = np.empty(len(ids), np.int64) if rows is None else rows

        def find(part: slice) -> int:
            return kernels.find_rows(slots, num_segments, self._seed, ids[part], rows[part])

        return rows, sum(in_parts(len(ids), find))

    def reserve(self, num_ids: int) -> None:
        """Make room for so many ids in all; MemoryError leaves everything as it was."""
        self._grow(int(num_ids * _SLOTS_PER_ID / kernels.SEGMENT_SLOTS) + 1)

    def insert(self, ids: np.ndarray, next_row: int, row_ids: np.ndarray) -> tuple[np.ndarray, int]:
        """Give unknown ids the rows from `next_row` on and note them in `row_ids`.

        `reserve` for all of them must have been called, and `row_ids` must have room.

        Returns:
          Each id's row, and the next free row.
        """
        rows, next_row, _ = self.insert_reusing(ids, next_row, row_ids, _NONE, 0)
        return rows, next_row

    def insert_reusing(
        self, ids: np.ndarray, next_row: int, row_ids: np.ndarray, free: np.ndarray, num_free: int
    ) -> tuple[np.ndarray, int, int]:
        """Do as `insert`, with the first `num_free` rows of `free` given out first, from the end.

        Returns:
          Each id's row, the next row that was never used, and how many free ones are left.
        """
        rows = np.empty(len(ids), np.int64)
        done = 0
        while True:
            next_row, num_free, handled = kernels.insert_rows(
                self._slots.rows,
                np.uint64(self._num_segments),
                self._seed,
                ids[done:],
                next_row,
                row_ids,
                free,
                num_free,
                rows[done:],
            )
            done += handled
            if done == len(ids):
                return rows, next_row, num_free
            # A full segment: 13 standard deviations away for ids that nobody fitted to the seed.
            self._grow(2 * self._num_segments)

    def remove(self, ids: np.ndarray) -> None:
        """Forget some ids; the rows they had are the caller's."""
        kernels.remove_ids(self._slots.rows, np.uint64(self._num_segments), self._seed, ids)

    def _grow(self, num_segments: int) -> None:
        if num_segments <= self._num_segments:
            return
        self._slots.reserve(num_segments * kernels.SEGMENT_SLOTS)
        kernels.split_segments(
            self._slots.rows, np.uint64(self._num_segments), np.uint64(num_segments), self._seed
        )
        self._num_segments = num_segments
