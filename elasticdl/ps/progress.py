"""What each bucket group has applied: the accounting of rules R1, R2 and R7, and nothing else.

For every open task a group keeps `next`, the minibatch it wants, and the digest of those it has; a
task that every group of the partition has closed is kept in one interval set. Totals are per group,
so that they travel with it.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from elasticdl.ps.interval_set import IntervalSet
from elasticdl.refusals import REFUSALS, Reason

CLOSED = 1 << 62
ALL = IntervalSet.of([0, CLOSED])


@dataclass(frozen=True)
class TaskState:
    """Where one group stands in a task that it has begun and not closed.

    Attributes:
      next: the minibatch it wants.
      digest: of the minibatches it has, as whoever computed them told.
      attempt: which one they are of.
      records: applied of this attempt, to be taken back where another begins.
      skipped: likewise, not applied because something was not finite.
    """

    next: int
    digest: int = 0
    attempt: int = 0
    records: int = 0
    skipped: int = 0


@dataclass
class GroupProgress:
    """Where one bucket group stands, whatever partition it is on.

    Attributes:
      iterations: updates by the optimizer.
      totals: by the names of `TOTALS`.
      closed: tasks it has closed.
      open: by task, where it has begun it.
      epochs: (records, sum of loss × records) by epoch.
    """

    iterations: int
    totals: dict[str, int]
    closed: IntervalSet
    open: dict[int, TaskState]
    epochs: dict[int, tuple[int, float]]


@dataclass
class _OpenTask:
    """Per group a `TaskState`; `next` is CLOSED once it has closed the task.

    Attributes:
      of_all: next, digest and attempt that all groups have, where that is known; they mostly do.
    """

    next: np.ndarray
    digest: np.ndarray
    attempt: np.ndarray
    records: np.ndarray
    skipped: np.ndarray
    of_all: tuple[int, int, int] | None = None

    @classmethod
    def unbegun(cls, num_groups: int) -> _OpenTask:
        next_wanted, attempt, records, skipped = (np.zeros(num_groups, np.int64) for _ in range(4))
        digest = np.zeros(num_groups, np.uint64)
        return cls(next_wanted, digest, attempt, records, skipped, (0, 0, 0))

    def state(self, position: int) -> TaskState:
        return TaskState(
            *(int(getattr(self, name)[position]) for name in TaskState.__dataclass_fields__)
        )

    def set(self, position: int, state: TaskState) -> None:
        for name in TaskState.__dataclass_fields__:
            getattr(self, name)[position] = getattr(state, name)
        self.of_all = None

    def close(self, position: int) -> None:
        """One group has closed it."""
        self.next[position] = CLOSED
        self.of_all = None

    def begins(self, attempt: int) -> np.ndarray:
        """Which groups are at an earlier attempt, and would drop it: bool ``[groups]``."""
        return (self.attempt < attempt) & (self.next < CLOSED)


@dataclass(frozen=True)
class Decision:
    """What a push of minibatch k means for the groups of a partition.

    apply: bool ``[groups]``: these want exactly k.
    repeat: bool ``[groups]``: these have it already.
    next: the lowest minibatch any group wants; `CLOSED` where none wants any.
    in_order: false when some group still waits for an earlier minibatch.
    attempt: which attempt of the task it is of.
    is_old: some group is at a later attempt; nothing may be applied.
    differs: some group's minibatches before it were others; nothing may be applied.
    """

    apply: np.ndarray
    repeat: np.ndarray
    next: int
    in_order: bool
    attempt: int = 0
    is_old: bool = False
    differs: bool = False


@dataclass
class EpochSum:
    """Records applied and summed loss × records of one epoch, per group; repeated ones too."""

    records: np.ndarray
    loss: np.ndarray


@dataclass
class GroupTotals:
    """int64 ``[groups]`` each: what the groups counted over all tasks."""

    num_groups: int
    applied_records: np.ndarray = field(init=False)
    applied_minibatches: np.ndarray = field(init=False)
    repeats_dropped: np.ndarray = field(init=False)
    skipped_records: np.ndarray = field(init=False)
    filtered_records: np.ndarray = field(init=False)
    added_records: np.ndarray = field(init=False)
    beyond_limit_records: np.ndarray = field(init=False)
    closed_records: np.ndarray = field(init=False)
    repeated_records: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if name != "num_groups":
                setattr(self, name, np.zeros(self.num_groups, np.int64))


TOTALS = tuple(name for name in GroupTotals.__dataclass_fields__ if name != "num_groups")
"""What groups count over all tasks."""

MAX_TASKS_APART = 1 << 20
"""Tasks that some groups of a checkpoint have closed and others not: these are few."""


class Progress:
    """Progress of the bucket groups one partition hosts. Not thread-safe.

    Args:
      num_groups: how many groups the partition hosts; arrays are indexed by their local position.
    """

    def __init__(self, num_groups: int) -> None:
        self.num_groups = num_groups
        self.closed = IntervalSet()
        self.totals = GroupTotals(num_groups)
        self.epochs: dict[int, EpochSum] = {}
        # Updates by the optimizer: not what was applied, where a step averages several minibatches.
        self.iterations = np.zeros(num_groups, np.int64)
        self._open: dict[int, _OpenTask] = {}
        self._all, self._none = np.ones(num_groups, bool), np.zeros(num_groups, bool)
        for groups in (self._all, self._none):
            groups.flags.writeable = False

    def copy(self) -> Progress:
        """Return what there is now, for a snapshot."""
        return copy.deepcopy(self)

    def group(self, position: int) -> GroupProgress:
        """Say where one group stands, by its local position."""
        states = {task: one.state(position) for task, one in self._open.items()}
        closed = IntervalSet.of(self.closed.bounds)
        for task in (task for task, state in states.items() if state.next == CLOSED):
            closed.add(task)
        return GroupProgress(
            int(self.iterations[position]),
            {name: int(getattr(self.totals, name)[position]) for name in TOTALS},
            closed,
            {task: state for task, state in states.items() if 0 < state.next < CLOSED},
            {
                epoch: (int(sums.records[position]), float(sums.loss[position]))
                for epoch, sums in self.epochs.items()
                if sums.records[position]
            },
        )

    @classmethod
    def of_groups(cls, groups: Sequence[GroupProgress]) -> Progress:
        """Make the progress of a partition that hosts these groups, in order.

        Raises:
          ValueError: more than `MAX_TASKS_APART` tasks are closed in some of them only.
        """
        made = cls(len(groups))
        made.iterations[:] = [group.iterations for group in groups]
        for name in TOTALS:
            getattr(made.totals, name)[:] = [group.totals[name] for group in groups]
        for epoch in sorted({epoch for group in groups for epoch in group.epochs}):
            sums = [group.epochs.get(epoch, (0, 0.0)) for group in groups]
            made.epochs[epoch] = EpochSum(
                np.array([records for records, _ in sums], np.int64),
                np.array([loss for _, loss in sums], np.float64),
            )
        closed = functools.reduce(operator.and_, (group.closed for group in groups), ALL)
        made.closed = closed if groups else IntervalSet()
        for position, group in enumerate(groups):
            apart = group.closed - made.closed
            if len(apart) > MAX_TASKS_APART:
                raise ValueError(f"{len(apart)} tasks are closed in some groups only")
            for task in (t for start, end in apart.intervals for t in range(start, end)):
                made._opened(task).close(position)
            for task, state in group.open.items():
                made._opened(task).set(position, state)
        return made

    def next(self, task: int, attempt: int = 0) -> int:
        """The lowest minibatch any group wants of `task`; `CLOSED` where all have closed it."""
        if task in self.closed:
            return CLOSED
        open_task = self._open.get(task)
        if open_task is None:
            return 0
        if open_task.of_all is not None and open_task.of_all[2] == attempt:
            return open_task.of_all[0]
        return int(np.where(open_task.begins(attempt), 0, open_task.next).min())

    def decide(
        self, task: int, k: int, attempt: int = 0, digest: int = 0, closes: bool = False
    ) -> Decision:
        """Say what a push, or the closing frame, of (task, k) means; changes nothing.

        Args:
          task: its id.
          k: the minibatch; of a closing frame, how many there are.
          attempt: which attempt of the task.
          digest: of the minibatches before k.
          closes: it is the closing frame.
        """
        if task in self.closed:
            return Decision(self._none, self._all, CLOSED, True, attempt)
        open_task = self._open.get(task) or _OpenTask.unbegun(self.num_groups)
        if open_task.of_all is not None and open_task.of_all[2] == attempt:
            wanted_by_all, known, _ = open_task.of_all
            return Decision(
                self._all if wanted_by_all == k else self._none,
                self._all if wanted_by_all > k else self._none,
                wanted_by_all,
                wanted_by_all >= k,
                attempt,
                differs=(wanted_by_all == k and known != digest)
                or (closes and k < wanted_by_all < CLOSED),
            )
        begins = open_task.begins(attempt)
        wanted = np.where(begins, 0, open_task.next)
        differs = (wanted == k) & (np.where(begins, 0, open_task.digest) != digest)
        if closes:  # They have more minibatches than there are.
            differs |= (wanted > k) & (wanted < CLOSED)
        return Decision(
            wanted == k,
            wanted > k,
            int(wanted.min()),
            bool((wanted >= k).all()),
            attempt,
            is_old=bool(((open_task.attempt > attempt) & (open_task.next < CLOSED)).any()),
            differs=bool(differs.any()),
        )

    def _opened(self, task: int) -> _OpenTask:
        open_task = self._open.get(task)
        if open_task is None:
            open_task = self._open[task] = _OpenTask.unbegun(self.num_groups)
        return open_task

    def _begin(self, decision: Decision, task: int) -> _OpenTask:
        """Take back what the groups that the push is for have counted of earlier attempts."""
        open_task, totals = self._opened(task), self.totals
        again = decision.apply & open_task.begins(decision.attempt)
        if again.any():
            totals.repeated_records += np.where(again, open_task.records, 0)
            totals.applied_records -= np.where(again, open_task.records, 0)
            totals.skipped_records -= np.where(again, open_task.skipped, 0)
            for counted in (open_task.next, open_task.digest, open_task.records, open_task.skipped):
                counted[again] = 0
            open_task.attempt[again] = decision.attempt
        return open_task

    def _count(
        self, decision: Decision, task: int, num_records: int, digest: int
    ) -> tuple[_OpenTask, int | np.ndarray]:
        """Have the groups that the push is for want the next; return how many records each got."""
        if decision.apply is self._all:  # Of this attempt, as all of them were.
            open_task = self._opened(task)
            open_task.next += 1
            open_task.digest[:] = digest
            open_task.of_all = decision.next + 1, digest, decision.attempt
            return open_task, num_records
        open_task = self._begin(decision, task)
        open_task.next[decision.apply] += 1
        open_task.digest[decision.apply] = digest
        open_task.of_all = None
        return open_task, np.where(decision.apply, num_records, 0)

    def drop_repeat(self, decision: Decision) -> None:
        """Count a minibatch that some groups had already."""
        if decision.repeat is self._none:
            return
        self.totals.repeats_dropped += decision.repeat
        REFUSALS.note(Reason.REPLAYED)

    def advance(
        self,
        decision: Decision,
        task: int,
        epoch: int,
        num_records: int,
        loss: float,
        digest: int = 0,
    ) -> None:
        """Count minibatch k as applied by the groups that wanted it.

        Args:
          decision: what `decide` said of it.
          task: its id.
          epoch: whose sums it counts in.
          num_records: records of the minibatch.
          loss: its mean loss.
          digest: of the minibatches up to this one.
        """
        open_task, counts = self._count(decision, task, num_records, digest)
        open_task.records += counts
        self.totals.applied_records += counts
        self.totals.applied_minibatches += decision.apply
        sums = self.epochs.get(epoch)
        if sums is None:
            zeros = np.zeros(self.num_groups, np.int64)
            sums = self.epochs[epoch] = EpochSum(zeros, np.zeros(self.num_groups))
        sums.records += counts
        sums.loss += counts * loss

    def count_update(self, groups: np.ndarray) -> np.ndarray:
        """Count one update by the optimizer in some groups, bool ``[groups]``.

        Returns:
          int64 ``[groups]``: iterations of each group, 1 after its first update.
        """
        self.iterations += groups
        return self.iterations

    def skip(self, decision: Decision, task: int, num_records: int, digest: int = 0) -> None:
        """Count minibatch k as skipped (not finite) by the groups that wanted it."""
        open_task, counts = self._count(decision, task, num_records, digest)
        open_task.skipped += counts
        self.totals.skipped_records += counts

    def close(
        self, decision: Decision, task: int, task_records: int, emitted_records: int, limited: bool
    ) -> None:
        """Close the task for the groups that have applied all its minibatches.

        What a group has not counted of the emitted records stays missing in its totals: it is lost.

        Args:
          task_records: records the task spans.
          emitted_records: records the input function made of them, in all minibatches.
          limited: the minibatch limit ended it, so records it did not reach were not wanted.
        """
        closing = decision.apply
        if not closing.any():
            return
        emitted: np.ndarray | int = emitted_records
        if limited:  # Where nothing came of this attempt, that of the one before stays counted.
            open_task = self._opened(task)
            before = open_task.records + open_task.skipped
            emitted = np.where(open_task.begins(decision.attempt), before, emitted_records)
        else:
            open_task = self._begin(decision, task)
        totals = self.totals
        missing = np.where(closing, task_records - emitted, 0)
        totals.closed_records += np.where(closing, task_records, 0)
        unread = totals.beyond_limit_records if limited else totals.filtered_records
        unread += np.maximum(missing, 0)
        totals.added_records += np.maximum(-missing, 0)
        open_task.next[closing] = CLOSED
        open_task.of_all = None
        if (open_task.next == CLOSED).all():
            del self._open[task]
            self.closed.add(task)
