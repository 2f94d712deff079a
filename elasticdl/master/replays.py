"""Which tasks a restored partition may have to see again, and which checkpoints make that needless.

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
    """Tasks that are done, but not closed in every group of the last committed checkpoint.

    Args:
      num_kept: of so many committed checkpoints, each can be gone back to.

    Attributes:
      open: those of them that were opened again, because a partition was restored without them.
      covered: ids that the last committed checkpoint has closed in all groups.
    """

    def __init__(self, num_kept: int = 1) -> None:
        self.open: set[int] = set()
        self.covered: Intervals = ()
        self._num_kept = num_kept
        self._done: dict[int, Task] = {}
        # The checkpoints that can be gone back to, and the tasks that the last one has closed in
        # all groups, but not each of the others.
        self._kept: dict[int, Intervals] = {}
        self._older: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._done.values())

    @property
    def records_open(self) -> int:
        """Records of the tasks that were opened again."""
        return sum(self._done[task].num_records for task in self.open)

    def done(self, task: Task) -> bool:
        """Note that a task is done; False if it was done before and this was a replay."""
        was_open = task.id in self.open
        self.open.discard(task.id)
        self._done[task.id] = task
        return not was_open

    def committed(self, number: int, closed: Intervals) -> None:
        """A checkpoint is committed, in all groups of which these tasks are closed."""
        self.covered = self._kept[number] = closed
        for forgotten in sorted(self._kept)[: -self._num_kept]:
            del self._kept[forgotten]
        for task in [task for task in self._done.values() if contains(closed, task.id)]:
            if task.id not in self.open:
                self._older[task.id] = self._done.pop(task.id)
        for task_id in list(self._older):
            if all(contains(one, task_id) for one in self._kept.values()):
                del self._older[task_id]

    def can_go_back_to(self, number: int) -> bool:
        """Whether every task is known that this checkpoint lacks."""
        return number in self._kept

    def fell_back(self, number: int, closed: Intervals) -> None:
        """The last committed checkpoint is this one again: those after it are damaged."""
        self.covered = closed
        for damaged in [one for one in self._kept if one > number]:
            del self._kept[damaged]
        for task_id in [one for one in self._older if not contains(closed, one)]:
            self._done[task_id] = self._older.pop(task_id)

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
