"""Tasks that wait to be granted, in the order in which they are to be: in a row, or in lanes.

Pure, a part of the ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from elasticdl.master.lanes import LaneQueues
from elasticdl.master.tasks import Task


class TaskQueue:
    """The tasks that wait. Those of lanes wait apart from the row."""

    def __init__(self) -> None:
        self._row: deque[Task] = deque()
        self._lanes = LaneQueues()
        # Those that were granted before, and wait again.
        self._again: set[int] = set()

    def __len__(self) -> int:
        return len(self._row) + len(self._lanes)

    def __iter__(self) -> Iterator[Task]:
        """Those of the row."""
        return iter(self._row)

    @property
    def row_length(self) -> int:
        """How many wait in the row."""
        return len(self._row)

    def add(self, tasks: Sequence[Task], first: bool = False) -> None:
        """Add new tasks, after all others or before them."""
        if tasks and tasks[0].lane is not None:
            for task in tasks:
                self._lanes.put(task)
        elif first:
            self._row.extendleft(reversed(tasks))
        else:
            self._row.extend(tasks)

    def add_again(self, task: Task) -> None:
        """Add a task that was granted before: it comes before new ones."""
        self._again.add(task.id)
        self.add([task], first=True)

    def take(self, position: int) -> Task:
        """Take out the task at a position of the row."""
        task = self._row[position]
        del self._row[position]
        self._again.discard(task.id)
        return task

    def take_of_lanes(
        self, worker: int, held: Sequence[tuple[int, Task]], num_workers: int
    ) -> Task | None:
        """Take out the task of a lane that a worker may have; see `LaneQueues.take`."""
        task = self._lanes.take(worker, held, num_workers)
        if task is not None:
            self._again.discard(task.id)
        return task

    def withdraw(self, task: Task) -> None:
        """Take out a task, if it waits: it is done all the same."""
        if task.granted and task.id not in self._again:
            return
        self._again.discard(task.id)
        if task.lane is not None:
            self._lanes.remove(task)
        else:
            self._row.remove(task)

    def drop(self, drops: Callable[[Task], bool]) -> Collection[Task]:
        """Take out and return the tasks that `drops` names."""
        dropped = [task for task in self._row if drops(task)] + self._lanes.drop(drops)
        if dropped:
            self._row = deque(task for task in self._row if not drops(task))
            self._again.difference_update(task.id for task in dropped)
        return dropped
