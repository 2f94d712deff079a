"""Tasks: what a worker leases, and how a job's shards are carved into them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from elasticdl.data.shards import Shard


class TaskKind(Enum):
    """What a task asks of its worker. A job is a sequence of phases, one kind each.

    train: INITIALIZE → TRAINING → EXPORT; rounds of PIN, EVALUATION, SUMMARIZE, EXPORT and
      CALLBACKS tasks come in between (docs/decisions/evaluation.md)
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

    @property
    def is_of_partitions(self) -> bool:
        """Whether it is done only with all partitions as they are now."""
        return self is not TaskKind.MERGE


@dataclass(frozen=True)
class EvaluationSchedule:
    """When a `train` job evaluates besides at its end; 0 is never.

    epochs: after every so many epochs. steps: after every so many steps. secs: every so often.
    """

    epochs: int = 0
    steps: int = 0
    secs: float = 0.0


@dataclass(frozen=True)
class JobPlan:
    """What a job is to do, fixed at launch.

    shards: training, evaluation or prediction data; validation_shards: what a `train` job
    evaluates on, when `evaluation` says. lease_s: a lease that nobody extends ends after this.
    max_steps: steps of training in all, exactly; None for no limit. lanes: how many sync mode has;
    0 is async. best_path: where the model to be restored at the end is kept. checkpoints: nothing
    is trained before the first is committed, nor exported before the last. backups: a task
    that one worker holds much longer than usual may be leased to a second one that has nothing to
    do. keep_checkpoints: partitions can go back to each of so many committed ones.
    """

    phases: tuple[TaskKind, ...]
    shards: tuple[Shard, ...]
    validation_shards: tuple[Shard, ...] = ()
    evaluation: EvaluationSchedule = EvaluationSchedule()
    lanes: int = 0
    best_path: str = ""
    num_epochs: int = 1
    minibatch_size: int = 64
    records_per_task: int = 1024
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0
    max_task_failures: int = 3
    lease_s: float = 30.0
    checkpoints: bool = False
    backups: bool = False
    keep_checkpoints: int = 1

    @property
    def main_kind(self) -> TaskKind:
        """The kind of tasks the job is for: what its progress counts."""
        return next(kind for kind in self.phases if kind.spans_records)


@dataclass(frozen=True)
class Lane:
    """A task's place in sync mode: at `position` of its lane; `last` ends the lane."""

    lane: int
    position: int
    num_lanes: int
    last: bool


@dataclass
class Task:
    """A range of records of one shard in one epoch; `id` is unique in the job.

    max_minibatches and learning_rate are set when the task is granted first and never change.
    max_minibatches: None for no limit. truncated: the limit is less than its records would make.
    learning_rate: what callbacks decided; None for the optimizer's own. pin: the image of the
    parameters that an evaluation's task reads; 0 for the current ones. attempt: grows when the
    input function made other minibatches than before, and all of them are trained again.
    """

    id: int
    kind: TaskKind
    epoch: int = 0
    shard: str = ""
    start: int = 0
    end: int = 0
    max_minibatches: int | None = None
    truncated: bool = False
    learning_rate: float | None = None
    pin: int = 0
    lane: Lane | None = None
    payload: str = ""
    failures: int = 0
    attempt: int = 0
    granted: bool = False

    @property
    def num_records(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        if not self.kind.spans_records:
            return f"task {self.id} ({self.kind.name.lower()})"
        return f"task {self.id} ({self.shard}, records {self.start} to {self.end})"


# Minibatches.
LONGEST_TASK = 256


def default_records_per_task(
    num_records: int, minibatch_size: int, num_workers: int, longest: int = LONGEST_TASK
) -> int:
    """Return whole minibatches such that every worker gets at least four tasks an epoch.

    Args:
      longest: minibatches a task has at most.
    """
    share = num_records / (4 * max(1, num_workers))
    return minibatch_size * min(longest, max(1, int(share // minibatch_size)))


def shuffled_ranges(
    shards: Sequence[Shard], epoch: int, plan: JobPlan
) -> Iterator[tuple[str, int, int]]:
    """Yield (shard, start, end) of an epoch of training, in an order shuffled by (seed, epoch)."""
    ranges = list(_ranges(shards, plan))
    if plan.shuffle:
        random.Random(f"{plan.seed}/{epoch}").shuffle(ranges)
    yield from ranges


def _ranges(shards: Sequence[Shard], plan: JobPlan) -> Iterator[tuple[str, int, int]]:
    for shard in shards:
        end = shard.start + shard.num_records
        for start in range(shard.start, end, plan.records_per_task):
            yield shard.path, start, min(start + plan.records_per_task, end)


def carve(
    shards: Sequence[Shard],
    kind: TaskKind,
    epoch: int,
    first_id: int,
    plan: JobPlan,
    pin: int = 0,
) -> Iterator[Task]:
    """Yield the tasks of one epoch: training's in shuffled order."""
    training = kind is TaskKind.TRAINING
    ranges = shuffled_ranges(shards, epoch, plan) if training else _ranges(shards, plan)
    for offset, (path, start, end) in enumerate(ranges):
        yield Task(first_id + offset, kind, epoch, path, start, end, pin=pin)
