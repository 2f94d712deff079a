"""What of a table changed since a snapshot began: a mark for each row, and the ids that went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elasticdl.ps import image_kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.row_parts import in_parts

MAX_MARK = (1 << 31) - 1
"""A mark is an int32."""

_SMALLEST_LOG = 1 << 20


@dataclass(frozen=True)
class Changes:
    """What tells which rows changed since the snapshot marked `base` began, and which ids went."""

    base: int
    marks: np.ndarray
    gone_ids: np.ndarray
    gone_marks: np.ndarray

    def rows(self) -> np.ndarray:
        """Find the rows that changed, ascending, int64 ``[n]``; free ones may be among them."""
        return np.flatnonzero(self.marks >= self.base)

    def gone(self) -> np.ndarray:
        """Find the ids that went, ascending, int64 ``[n]``; some may be back, in a changed row."""
        return np.unique(self.gone_ids[self.gone_marks >= self.base])


class ChangeMarks:
    """The mark of the newest snapshot begun before each row's last change. Not thread-safe.

    Snapshots of checkpoints and of copies are marked in one sequence, 1 for the first.

    Ids that went are kept in a log of bounded length; once it is full it is forgotten, and what
    changed is unknown for the snapshots begun until then.
    """

    def __init__(self) -> None:
        self._marks = Arena(np.int32, 1)
        self._newest = 0
        self._gone_ids = Arena(np.int64, 1)
        self._gone_marks = Arena(np.int32, 1)
        self._num_gone = 0
        self._forgotten = 0  # what went when this was the newest snapshot, or before, is unknown

    @property
    def row_bytes(self) -> int:
        """Memory of a row."""
        return self._marks.row_bytes

    def begin(self, mark: int) -> None:
        """Begin a snapshot; its mark is higher than any before."""
        assert self._newest < mark <= MAX_MARK
        self._newest = mark

    def reserve(self, num_rows: int) -> None:
        """Make room for rows below this one; MemoryError leaves everything as it was."""
        self._marks.reserve(num_rows)

    def changed(self, rows: np.ndarray) -> None:
        """Mark rows, int64 ``[n]``."""
        if self._newest:  # else they have this mark
            marks, newest = self._marks.rows, np.int32(self._newest)
            in_parts(len(rows), lambda part: image_kernels.mark_rows(marks, rows[part], newest))

    def gone(self, ids: np.ndarray, num_rows: int) -> None:
        """Note ids whose rows went, int64 ``[n]``.

        Args:
          num_rows: of the table; so many ids are noted at least.
        """
        if not self._newest:
            return
        if self._num_gone + len(ids) > max(num_rows, _SMALLEST_LOG):
            self._num_gone, self._forgotten = 0, self._newest
            return
        end = self._num_gone + len(ids)
        self._gone_ids.reserve(end)
        self._gone_marks.reserve(end)
        self._gone_ids.rows[self._num_gone : end, 0] = ids
        self._gone_marks.rows[self._num_gone : end, 0] = self._newest
        self._num_gone = end

    def knows(self, base: int) -> bool:
        """Whether a snapshot was begun here by then, and all that changed since is known."""
        return self._forgotten < base <= self._newest

    def since(self, base: int, end_row: int) -> Changes:
        """Return copies of what tells the changes since a mark, of rows below `end_row`.

        Copying is all that is done: a search would be an order of magnitude slower.
        """
        return Changes(
            base,
            self._marks.rows[:end_row, 0].copy(),
            self._gone_ids.rows[: self._num_gone, 0].copy(),
            self._gone_marks.rows[: self._num_gone, 0].copy(),
        )
