"""A set of integers that are mostly consecutive."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence


class IntervalSet:
    """A set of integers that are mostly consecutive, as sorted half-open intervals."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._size = 0

    @classmethod
    def of(cls, bounds: Sequence[int]) -> IntervalSet:
        """Make the set of some half-open intervals, given by their bounds in order.

        Raises:
          ValueError: these are no bounds of intervals that do not touch.
        """
        if len(bounds) % 2 or any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ValueError("not the bounds of intervals")
        made = cls()
        made._starts, made._ends = list(bounds[::2]), list(bounds[1::2])
        made._size = sum(made._ends) - sum(made._starts)
        return made

    def add(self, value: int) -> None:
        """Add one integer; adding it again changes nothing."""
        if value in self:
            return
        self._size += 1
        at = bisect.bisect_right(self._starts, value)
        joins_left = at > 0 and self._ends[at - 1] == value
        joins_right = at < len(self._starts) and self._starts[at] == value + 1
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif joins_left:
            self._ends[at - 1] = value + 1
        elif joins_right:
            self._starts[at] = value
        else:
            self._starts.insert(at, value)
            self._ends.insert(at, value + 1)

    def __contains__(self, value: int) -> bool:
        at = bisect.bisect_right(self._starts, value)
        return at > 0 and value < self._ends[at - 1]

    def __len__(self) -> int:
        return self._size

    def __and__(self, other: IntervalSet) -> IntervalSet:
        found: list[int] = []
        mine, theirs = self.intervals, other.intervals
        i = j = 0
        while i < len(mine) and j < len(theirs):
            start, end = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
            if start < end:
                found += (start, end)
            if mine[i][1] <= theirs[j][1]:
                i += 1
            else:
                j += 1
        return IntervalSet.of(found)

    def __sub__(self, other: IntervalSet) -> IntervalSet:
        bounds = [0, *other.bounds, 1 << 63]
        return self & IntervalSet.of(bounds if bounds[1] else bounds[2:])

    @property
    def bounds(self) -> list[int]:
        """Where the intervals start and end, in order."""
        return [bound for interval in self.intervals for bound in interval]

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The half-open intervals, in order."""
        return list(zip(self._starts, self._ends, strict=True))
