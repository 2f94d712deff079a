"""The tasks of one epoch, and how many of them are done. Pure, a part of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from elasticdl.master.tasks import Task


@dataclass
class EpochTasks:
    """What became of the tasks of one epoch, whose ids follow each other.

    replayed: ids of tasks that were done, and again after a loss.
    """

    first_id: int
    num_tasks: int
    num_records: int
    num_left: int
    records_done: int = 0
    replayed: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> EpochTasks:
        """Those of an epoch that begins."""
        records = sum(task.num_records for task in tasks)
        return cls(tasks[0].id, len(tasks), records, len(tasks))

    def done(self, task: Task) -> None:
        """Count a task that is done for the first time."""
        self.num_left -= 1
        self.records_done += task.num_records
