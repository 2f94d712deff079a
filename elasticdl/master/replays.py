"""Which tasks a restored partition may have to see again, and which checkpoint makes that needless.

Pure, a part of the ledger. docs/decisions/recovery.md tells the whole.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from elasticdl.errors import JobError
from elasticdl.master.tasks import Task

Intervals = tuple[tuple[int, int], ...]
"""A set of task ids: sorted half-open intervals."""


class Replays:
    """Tasks that are done, but not closed in every group of a committed checkpoint.

    Attributes:
      open: those of them that were opened again, because a partition was restored without them.
      covered: ids that the last committed checkpoint has closed in all groups.
    """

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.covered: Intervals = ()
        self._done: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._done.values())

    def done(self, task: Task) -> bool:
        """Note that a task is done; False if it was done before and this was a replay."""
        was_open = task.id in self.open
        self.open.discard(task.id)
        self._done[task.id] = task
        return not was_open

    def committed(self, closed: Intervals) -> None:
        """A checkpoint is committed, in all groups of which these tasks are closed."""
        self.covered = closed
        for task in [task for task in self._done.values() if contains(closed, task.id)]:
            if task.id not in self.open:
                del self._done[task.id]

    def restored(self, closed: Intervals) -> list[Task]:
        """A partition was restored with these tasks closed: return those to be opened again.

        Raises:
          JobError: tasks are missing in it that nobody knows any more.
        """
        for start, end in self.covered:
            if not contains(closed, start, end):
                raise JobError(
                    f"a parameter server was restored without tasks {start} to {end - 1}, which "
                    "the last committed checkpoint has"
                )
        again = [
            task
            for task in self._done.values()
            if task.id not in self.open and not contains(closed, task.id)
        ]
        self.open.update(task.id for task in again)
        return again


def contains(intervals: Sequence[tuple[int, int]], start: int, end: int | None = None) -> bool:
    """Whether one of sorted half-open intervals holds all from `start` to `end`; that one value."""
    at = bisect.bisect_right(intervals, (start, float("inf")))
    return at > 0 and (start + 1 if end is None else end) <= intervals[at - 1][1]
