"""The tasks that exist and are not done: how many, and which of them wait to be granted.

Pure, a part of the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from elasticdl.master.task_queue import TaskQueue
from elasticdl.master.tasks import Task, TaskKind


class OpenTasks:
    """The open tasks of one job.

    Attributes:
      queue: those that wait to be granted.
      num_defined: tasks that were ever defined, without those that were dropped.
      num_training: open tasks of training.
      num_under_way: those of them that were granted.
      training_granted: records and tasks of training that were ever granted.
      next_id: the id of the next task that is defined.
      dropped: ids of tasks of training that nobody wanted any more.
    """

    def __init__(self) -> None:
        self.queue = TaskQueue()
        self.num_defined = 0
        self.num_training = 0
        self.num_under_way = 0
        self.training_granted = (0, 0)
        self.next_id = 0
        self.dropped: set[int] = set()
        self._open: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._open.values())

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._open

    def __getitem__(self, task_id: int) -> Task:
        return self._open[task_id]

    def get(self, task_id: int) -> Task | None:
        """The task of an id, if it is open."""
        return self._open.get(task_id)

    def define(self, tasks: Sequence[Task], first: bool = False) -> None:
        """Add new tasks, numbered from `next_id`; they wait after all others, or before them."""
        self.next_id += len(tasks)
        self.num_defined += len(tasks)
        for task in tasks:
            self._open[task.id] = task
            self.num_training += task.kind is TaskKind.TRAINING
        self.queue.add(tasks, first)

    def grant(self, task: Task) -> None:
        """Note that a task, which waits no more, is granted, perhaps again."""
        if task.kind is TaskKind.TRAINING and not task.granted:
            records, tasks = self.training_granted
            self.training_granted = (records + task.num_records, tasks + 1)
            self.num_under_way += 1
        task.granted = True

    def done(self, task: Task) -> None:
        """Take out a task, which was granted."""
        del self._open[task.id]
        if task.kind is TaskKind.TRAINING:
            self.num_training -= 1
            self.num_under_way -= 1

    def open_again(self, task: Task) -> None:
        """Add a task that was done; it is granted before new ones."""
        self._open[task.id] = task
        if task.kind is TaskKind.TRAINING:
            self.num_training += 1
            self.num_under_way += 1
        self.queue.add_again(task)

    def drop_ungranted(self) -> None:
        """Forget tasks of training that were never granted: they are not wanted."""

        def drops(task: Task) -> bool:
            return task.kind is TaskKind.TRAINING and not task.granted

        for task in self.queue.drop(drops):
            del self._open[task.id]
            self.dropped.add(task.id)
            self.num_training -= 1
            self.num_defined -= 1

    def drop(self, task_ids: Collection[int]) -> None:
        """Forget these tasks of a round, whether they wait or are worked on."""
        self.queue.drop(lambda task: task.id in task_ids)
        for task_id in task_ids:
            del self._open[task_id]
            self.num_defined -= 1
