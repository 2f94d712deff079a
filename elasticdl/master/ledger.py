"""The ledger: every task is todo, leased or done, and this says which.

Pure: `actions = ledger.handle(event, now)` changes the ledger and nothing else; no thread, clock or
network. Handling an event twice has the effect of once.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elasticdl.master.tasks import JobPlan, Task, TaskKind, carve

LEASES_PER_WORKER = 2
RETRY_S = 0.1

# ---------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """Something the ledger must know of; `incarnation` tells a worker from its replacement."""


@dataclass(frozen=True)
class LeaseRequested(Event):
    """`request` counts up in one worker; repeating one brings the same answer."""

    worker: int
    incarnation: int
    request: int


@dataclass(frozen=True)
class LeasesHeld(Event):
    """The worker lives and works on these grants; only these are extended."""

    worker: int
    incarnation: int
    grants: tuple[int, ...]


@dataclass(frozen=True)
class TaskCompleted(Event):
    """All partitions, at these incarnations, have closed the task; `result` is what it produced."""

    task: int
    partition_incarnations: tuple[int, ...] = ()
    num_minibatches: int = 0
    result: str = ""


@dataclass(frozen=True)
class TaskFailed(Event):
    """The user's code raised; `fatal` where trying again is pointless."""

    grant: int
    message: str
    traceback: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class GrantsReturned(Event):
    """A worker gives leases back unharmed: it leaves, or its partition moved."""

    grants: tuple[int, ...]


@dataclass(frozen=True)
class WorkerLost(Event):
    """The worker is gone: preempted, killed, silent. This never counts against a task."""

    worker: int
    incarnation: int
    reason: str = ""


@dataclass(frozen=True)
class PartitionStarted(Event):
    """A parameter server serves; completions must name this incarnation from now on (R3)."""

    index: int
    incarnation: int


@dataclass(frozen=True)
class Tick(Event):
    """Time passes: leases that nobody extended end."""


# --------------------------------------------------------------------- actions


@dataclass(frozen=True)
class Action:
    """Something the ledger decided, to be carried out or written down by others."""


@dataclass(frozen=True)
class Grant(Action):
    """Answer to LeaseRequested: work on this task under this grant."""

    task: Task
    grant: int
    repeated: bool = False


@dataclass(frozen=True)
class Wait(Action):
    """Answer to LeaseRequested: nothing to do right now, ask again."""

    retry_after_s: float = RETRY_S


@dataclass(frozen=True)
class NoMoreTasks(Action):
    """Answer to LeaseRequested: the job is over, leave."""


@dataclass(frozen=True)
class TasksDefined(Action):
    """New tasks exist; the journal must hold them before any of them is granted."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class TaskDone(Action):
    """A task is closed everywhere, or its result is here."""

    task: Task
    result: str = ""


@dataclass(frozen=True)
class Requeued(Action):
    """A granted task has no worker any more; it is granted again before new ones."""

    task: Task
    reason: str


@dataclass(frozen=True)
class EpochEnded(Action):
    """Every training task of the epoch is done."""

    epoch: int


@dataclass(frozen=True)
class PhaseEnded(Action):
    """Every task of the phase is done."""

    kind: TaskKind


@dataclass(frozen=True)
class JobDone(Action):
    """Every task of every phase is done."""


@dataclass(frozen=True)
class JobFailed(Action):
    """A task failed too often, or fatally."""

    message: str
    traceback: str = ""


@dataclass
class _Lease:
    grant: int
    task: Task
    worker: int
    incarnation: int
    expires: float


class Ledger:
    """Every task of a job and who works on it.

    Args:
      plan: what the job is to do.
      now: the clock's reading at the start; the same clock gives `handle` its `now`, in seconds.
    """

    def __init__(self, plan: JobPlan, now: float = 0.0) -> None:
        self.plan = plan
        self.finished = False
        self.failure: JobFailed | None = None
        self.results: dict[int, str] = {}
        self.steps_done = 0
        self._records_done: Counter[TaskKind] = Counter()
        self.num_tasks = 0
        self._training_granted = (0, 0)
        self.partition_incarnations: dict[int, int] = {}
        self._phase = -1
        self._next_id = 0
        self._next_grant = 1
        self._epoch = -1
        self._todo: deque[Task] = deque()
        self._leases: dict[int, _Lease] = {}
        self._open: dict[int, Task] = {}
        self._done: dict[int, int] = {}
        self._left_in_epoch: dict[int, int] = {}
        self._phase_results: list[str] = []
        self._steps_left = plan.max_steps
        self._answers: dict[tuple[int, int], tuple[int, int]] = {}
        self._handlers: dict[type[Event], Callable[[Any, float], list[Action]]] = {
            LeaseRequested: self._lease_requested,
            LeasesHeld: self._leases_held,
            TaskCompleted: self._task_completed,
            TaskFailed: self._task_failed,
            GrantsReturned: self._grants_returned,
            WorkerLost: self._worker_lost,
            PartitionStarted: self._partition_started,
            Tick: self._tick,
        }
        self.first_actions = self._next_phase()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Change the ledger as `event` says and return what follows from it, in order."""
        return self._handlers[type(event)](event, now)

    # ------------------------------------------------------------ what it knows

    @property
    def phase(self) -> TaskKind | None:
        """The kind of tasks being worked on; None once all is done."""
        return self.plan.phases[self._phase] if self._phase < len(self.plan.phases) else None

    @property
    def epoch(self) -> int:
        """The latest epoch whose tasks exist, from 0."""
        return max(0, self._epoch)

    @property
    def num_todo(self) -> int:
        return len(self._todo)

    @property
    def num_leased(self) -> int:
        return len({lease.task.id for lease in self._leases.values()})

    @property
    def num_done(self) -> int:
        return len(self._done)

    def records_done(self, kind: TaskKind) -> int:
        """Records of this kind's tasks that are done, all epochs."""
        return self._records_done[kind]

    def training_granted(self) -> tuple[int, int]:
        """Records and tasks of training that were ever granted: what groups must account for."""
        return self._training_granted

    def is_done(self, task: int) -> bool:
        """Whether this task is done."""
        return task in self._done

    def holders(self, task: int) -> list[int]:
        """The workers that hold a lease of this task."""
        return [lease.worker for lease in self._leases.values() if lease.task.id == task]

    # ------------------------------------------------------------------ phases

    def _next_phase(self) -> list[Action]:
        """Enter the next phase that has tasks, or end the job."""
        actions: list[Action] = []
        if self._phase >= 0:
            actions.append(PhaseEnded(self.plan.phases[self._phase]))
        results, self._phase_results = self._phase_results, []
        self._phase += 1
        self._epoch = -1
        if self._phase == len(self.plan.phases):
            self.finished = True
            return [*actions, JobDone()]
        kind = self.plan.phases[self._phase]
        if kind.spans_records:
            return actions + self._define_epoch()
        return actions + self._define([Task(self._next_id, kind, payload=json.dumps(results))])

    def _shards(self, kind: TaskKind) -> tuple[Any, ...]:
        validates = kind is TaskKind.EVALUATION and TaskKind.TRAINING in self.plan.phases
        return self.plan.validation_shards if validates else self.plan.shards

    def _define_epoch(self) -> list[Action]:
        kind = self.plan.phases[self._phase]
        self._epoch += 1
        tasks = list(carve(self._shards(kind), kind, self._epoch, self._next_id, self.plan))
        self._left_in_epoch[self._epoch] = len(tasks)
        return self._define(tasks)

    def _define(self, tasks: list[Task]) -> list[Action]:
        self._next_id += len(tasks)
        self.num_tasks += len(tasks)
        self._todo.extend(tasks)
        for task in tasks:
            self._open[task.id] = task
        return [TasksDefined(tuple(tasks))]

    def _epochs_left(self) -> bool:
        return self.phase is TaskKind.TRAINING and self._epoch + 1 < self.plan.num_epochs

    # ------------------------------------------------------------------ leases

    def _lease_requested(self, event: LeaseRequested, now: float) -> list[Action]:
        key = (event.worker, event.incarnation)
        request, grant = self._answers.get(key, (-1, 0))
        if request == event.request and grant in self._leases:
            return [Grant(self._leases[grant].task, grant, repeated=True)]
        if event.request < request:  # A late duplicate, whose answer nobody waits for.
            return [Wait()]
        if self.finished or self.failure is not None:
            return [NoMoreTasks()]
        actions: list[Action] = []
        # The next epoch's tasks exist before this one's last is done: nobody waits at its end.
        if not self._todo and self._epochs_left() and self._steps_left != 0:
            actions += self._define_epoch()
        holding = sum(1 for lease in self._leases.values() if lease.worker == event.worker)
        workers = len({lease.worker for lease in self._leases.values()})
        if holding >= LEASES_PER_WORKER or (holding and len(self._todo) < workers):
            return [*actions, Wait()]
        task = self._take()
        if task is None:
            return [*actions, Wait()]
        grant = self._next_grant
        self._next_grant += 1
        self._leases[grant] = _Lease(
            grant, task, event.worker, event.incarnation, now + self.plan.lease_s
        )
        self._answers[key] = (event.request, grant)
        return [*actions, Grant(task, grant)]

    def _take(self) -> Task | None:
        """Take the next task to grant; None where there is none, or no step left to give it."""
        for position, task in enumerate(self._todo):
            if not task.granted and task.kind is TaskKind.TRAINING and self._steps_left is not None:
                if self._steps_left == 0:
                    continue
                # A task is given as many steps as its records make if none is dropped; what it does
                # not use comes back when it is done. One that would be cut short waits until the
                # others are done: only then is it known how many steps are left.
                most = -(-task.num_records // self.plan.minibatch_size)
                if most > self._steps_left and self._training_under_way():
                    continue
                task.max_minibatches = min(most, self._steps_left)
                task.truncated = most > self._steps_left
                self._steps_left -= task.max_minibatches
            if not task.granted and task.kind is TaskKind.TRAINING:
                records, tasks = self._training_granted
                self._training_granted = (records + task.num_records, tasks + 1)
            task.granted = True
            del self._todo[position]
            return task
        return None

    def _training_under_way(self) -> bool:
        return any(task.granted for task in self._open.values())

    def _leases_held(self, event: LeasesHeld, now: float) -> list[Action]:
        for grant in event.grants:
            lease = self._leases.get(grant)
            if lease is not None and lease.incarnation == event.incarnation:
                lease.expires = now + self.plan.lease_s
        return []

    def _tick(self, event: Tick, now: float) -> list[Action]:
        late = [lease for lease in self._leases.values() if lease.expires <= now]
        return self._requeue(late, "its lease ended")

    def _worker_lost(self, event: WorkerLost, now: float) -> list[Action]:
        lost = [
            lease
            for lease in self._leases.values()
            if lease.worker == event.worker and lease.incarnation <= event.incarnation
        ]
        return self._requeue(lost, f"worker {event.worker} was lost ({event.reason})")

    def _grants_returned(self, event: GrantsReturned, now: float) -> list[Action]:
        returned = [self._leases[grant] for grant in event.grants if grant in self._leases]
        return self._requeue(returned, "its worker gave it back")

    def _requeue(self, leases: list[_Lease], reason: str) -> list[Action]:
        """End leases; a task nobody else works on is granted again before new ones."""
        actions: list[Action] = []
        for lease in leases:
            del self._leases[lease.grant]
            task = lease.task
            if task.id in self._open and not self.holders(task.id):
                self._todo.appendleft(task)
                actions.append(Requeued(task, reason))
        return actions

    def _task_failed(self, event: TaskFailed, now: float) -> list[Action]:
        lease = self._leases.get(event.grant)
        if lease is None:
            return []
        task = lease.task
        task.failures += 1
        if event.fatal or task.failures >= self.plan.max_task_failures:
            tries = "" if event.fatal else f" (tried {task.failures} times)"
            self.failure = JobFailed(f"{task}{tries}: {event.message}", event.traceback)
            return [self.failure]
        return self._requeue([lease], f"its worker's model code raised: {event.message}")

    # -------------------------------------------------------------- completion

    def _partition_started(self, event: PartitionStarted, now: float) -> list[Action]:
        self.partition_incarnations[event.index] = event.incarnation
        return []

    def _current_incarnations(self) -> tuple[int, ...]:
        return tuple(incarnation for _, incarnation in sorted(self.partition_incarnations.items()))

    def _task_completed(self, event: TaskCompleted, now: float) -> list[Action]:
        task = self._open.get(event.task)
        if task is None:
            return []
        if task.kind is TaskKind.TRAINING:
            if event.partition_incarnations != self._current_incarnations():
                stale = [lease for lease in self._leases.values() if lease.task.id == task.id]
                return self._requeue(stale, "a partition restarted before it was closed everywhere")
            self.steps_done += event.num_minibatches
            if self._steps_left is not None:
                self._steps_left += (task.max_minibatches or 0) - event.num_minibatches
        self._end_task(task, event.num_minibatches)
        if event.result:
            self.results[task.id] = event.result
            self._phase_results.append(event.result)
        actions: list[Action] = [TaskDone(task, event.result)]
        if task.kind.spans_records:
            self._records_done[task.kind] += task.num_records
            self._left_in_epoch[task.epoch] -= 1
            if self._left_in_epoch[task.epoch] == 0 and task.kind is TaskKind.TRAINING:
                actions.append(EpochEnded(task.epoch))
        return actions + self._after_completion()

    def _end_task(self, task: Task, num_minibatches: int) -> None:
        del self._open[task.id]
        self._done[task.id] = num_minibatches
        for lease in [lease for lease in self._leases.values() if lease.task.id == task.id]:
            del self._leases[lease.grant]
        if task in self._todo:  # Its lease ended, and its worker completed it all the same.
            self._todo.remove(task)

    def _after_completion(self) -> list[Action]:
        spent = self._steps_left == 0 and self.phase is TaskKind.TRAINING
        if spent and not self._training_under_way():  # What was never granted is not wanted.
            self.num_tasks -= len(self._todo)
            self._todo.clear()
            self._open.clear()
            return self._next_phase()
        if self._open or self._epochs_left():
            return []
        return self._next_phase()
