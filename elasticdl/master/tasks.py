"""Tasks: what a worker leases, and how a job's shards are carved into them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from elasticdl.data.shards import Shard


class TaskKind(Enum):
    """What a task asks of its worker. A job is a sequence of phases, one kind each.

    train: INITIALIZE → TRAINING → (EVALUATION → SUMMARIZE) → EXPORT
    evaluate: INITIALIZE → EVALUATION → SUMMARIZE
    predict: INITIALIZE → PREDICTION → MERGE
    """

    INITIALIZE = 0
    TRAINING = 1
    EVALUATION = 2
    SUMMARIZE = 3
    PREDICTION = 4
    EXPORT = 5
    MERGE = 6
    PIN = 7
    CALLBACKS = 8

    @property
    def spans_records(self) -> bool:
        """Whether its tasks are ranges of records; else the phase is a single task."""
        return self in (TaskKind.TRAINING, TaskKind.EVALUATION, TaskKind.PREDICTION)


@dataclass(frozen=True)
class JobPlan:
    """What a job is to do, fixed at launch.

    shards: training, evaluation or prediction data; validation_shards: of the EVALUATION phase of
    a `train` job. lease_s: a lease that nobody extends ends after this. max_steps: minibatches of
    training in all, exactly; None for no limit.
    """

    phases: tuple[TaskKind, ...]
    shards: tuple[Shard, ...]
    validation_shards: tuple[Shard, ...] = ()
    num_epochs: int = 1
    minibatch_size: int = 64
    records_per_task: int = 1024
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0
    max_task_failures: int = 3
    lease_s: float = 30.0

    @property
    def main_kind(self) -> TaskKind:
        """The kind of tasks the job is for: what its progress counts."""
        return next(kind for kind in self.phases if kind.spans_records)


@dataclass
class Task:
    """A range of records of one shard in one epoch; `id` is unique in the job.

    max_minibatches is set when the task is granted first and never changes; None for no limit.
    truncated: the limit is less than its records would make.
    """

    id: int
    kind: TaskKind
    epoch: int = 0
    shard: str = ""
    start: int = 0
    end: int = 0
    max_minibatches: int | None = None
    truncated: bool = False
    payload: str = ""
    failures: int = 0
    granted: bool = False

    @property
    def num_records(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        if not self.kind.spans_records:
            return f"task {self.id} ({self.kind.name.lower()})"
        return f"task {self.id} ({self.shard}, records {self.start} to {self.end})"


def default_records_per_task(
    num_records: int, minibatch_size: int, num_workers: int, longest: int = 256
) -> int:
    """Return whole minibatches such that every worker gets at least four tasks an epoch.

    Args:
      longest: minibatches a task has at most.
    """
    share = num_records / (4 * max(1, num_workers))
    return minibatch_size * min(longest, max(1, int(share // minibatch_size)))


def carve(
    shards: Sequence[Shard], kind: TaskKind, epoch: int, first_id: int, plan: JobPlan
) -> Iterator[Task]:
    """Yield the tasks of one epoch: training's in an order shuffled by (seed, epoch)."""
    ranges = [
        (shard.path, start, min(start + plan.records_per_task, shard.num_records))
        for shard in shards
        for start in range(0, shard.num_records, plan.records_per_task)
    ]
    if kind is TaskKind.TRAINING and plan.shuffle:
        random.Random(f"{plan.seed}/{epoch}").shuffle(ranges)
    for offset, (path, start, end) in enumerate(ranges):
        yield Task(first_id + offset, kind, epoch, path, start, end)
