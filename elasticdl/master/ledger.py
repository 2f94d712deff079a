"""The ledger: every task is todo, leased or done, and this says which.

Pure: `actions = ledger.handle(event, now)` changes the ledger and nothing else; no thread, clock or
network. Handling an event twice has the effect of once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from elasticdl.errors import JobError
from elasticdl.master.backups import Backups
from elasticdl.master.decisions import Decisions
from elasticdl.master.lanes import carve_lanes, follows
from elasticdl.master.leases import Lease, Leases
from elasticdl.master.ledger_events import (
    RETRY_S,
    Action,
    CheckpointCommitted,
    CheckpointWanted,
    Decided,
    EpochEnded,
    Evaluated,
    Event,
    Grant,
    GrantsReturned,
    JobDone,
    JobFailed,
    LeaseRequested,
    LeasesHeld,
    MasterStarted,
    NoMoreTasks,
    PartitionLost,
    PartitionsPlaced,
    PartitionStarted,
    PhaseEnded,
    Requeued,
    RolledBack,
    RoundBegan,
    TaskCompleted,
    TaskDiffers,
    TaskDone,
    TaskFailed,
    TaskRestarted,
    TasksDefined,
    Tick,
    Wait,
    WorkerLost,
)
from elasticdl.master.replays import Replays
from elasticdl.master.rounds import Rounds
from elasticdl.master.steps import Steps
from elasticdl.master.task_queue import TaskQueue
from elasticdl.master.tasks import JobPlan, Task, TaskKind, carve

LEASES_PER_WORKER = 2
MOST_RETRIES_PER_S = 1000
GRANTS_PER_MASTER = 1 << 32
LOST = 0
"""In the place of a partition's incarnation, while it has none."""


class Ledger:
    """Every task of a job and who works on it.

    Args:
      plan: what the job is to do.
      now: the clock's reading at the start; the same clock gives `handle` its `now`, in seconds.
    """

    def __init__(self, plan: JobPlan, now: float = 0.0) -> None:
        self.plan = plan
        self.rounds = Rounds(plan, now)
        self.finished = False
        self.failure: JobFailed | None = None
        self.results: dict[int, str] = {}
        self._records_done: Counter[TaskKind] = Counter()
        self.num_tasks = 0
        # Tasks that the input function did not make the same minibatches of each time.
        self.num_restarted = 0
        self._training_granted = (0, 0)
        self.partition_incarnations: dict[int, int] = {}
        self._phase = -1
        self._next_id = 0
        self._next_grant = 1
        self._epoch = -1
        self._queue = TaskQueue()
        # Workers that have asked for a lease, and the one that runs the user's callbacks.
        self._workers: dict[int, int] = {}
        self._host: tuple[int, int] | None = None
        self._leases = Leases()
        self._open: dict[int, Task] = {}
        # Of training: tasks that are not done, and those of them that were granted.
        self._num_open = 0
        self._num_under_way = 0
        self._num_done = 0
        self._replays = Replays()
        self._backups = Backups()
        # The checkpoint that has to be committed before anything goes on: initial or final.
        self._awaited_checkpoint = ""
        self._initialize: Task | None = None
        self._is_initialized = False
        self._left_in_epoch: dict[int, int] = {}
        # The last epoch at whose end it was settled whether to evaluate.
        self._epoch_settled = -1
        self._phase_results: list[str] = []
        self._steps = Steps(plan)
        # By worker and incarnation: its last request that was granted something, and the grant; and
        # its last request, which no journal has: what a late one gets then, nobody holds for long.
        self._answers: dict[tuple[int, int], tuple[int, int]] = {}
        self._last_requests: dict[tuple[int, int], int] = {}
        self._handlers: dict[type[Event], Callable[[Any, float], list[Action]]] = {
            LeaseRequested: self._lease_requested,
            LeasesHeld: self._leases_held,
            TaskCompleted: self._task_completed,
            TaskFailed: self._task_failed,
            TaskDiffers: self._task_differs,
            GrantsReturned: self._grants_returned,
            WorkerLost: self._worker_lost,
            PartitionStarted: self._partition_started,
            PartitionLost: self._partition_lost,
            PartitionsPlaced: self._partitions_placed,
            CheckpointCommitted: self._checkpoint_committed,
            RolledBack: self._rolled_back,
            MasterStarted: self._master_started,
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
    def is_between_epochs(self) -> bool:
        """Whether only a round is under way, and no task of training."""
        return self.rounds.current is not None and not self._num_open

    @property
    def num_todo(self) -> int:
        return len(self._queue)

    @property
    def steps_done(self) -> int:
        """Steps of training that are done."""
        return self._steps.done

    @property
    def num_leased(self) -> int:
        return self._leases.num_tasks

    @property
    def num_done(self) -> int:
        return self._num_done

    @property
    def checkpoint_wanted(self) -> str:
        """`initial` or `final` where nothing goes on before a checkpoint is committed, else empty.

        What is to be in it is there: no task is open.
        """
        return "" if self._num_open or self._is_initializing else self._awaited_checkpoint

    @property
    def undone_definitions(self) -> list[Task]:
        """The tasks of training that are not known to be closed in all groups of a checkpoint."""
        tasks = {task.id: task for task in self._replays}
        training = (task for task in self._open.values() if task.kind is TaskKind.TRAINING)
        return [*{**tasks, **{task.id: task for task in training}}.values()]

    @property
    def ids_used(self) -> tuple[int, int]:
        """The next id of a task, and of a grant."""
        return self._next_id, self._next_grant

    def late_grants(self, now: float) -> tuple[int, ...]:
        """The leases that nobody extended in time."""
        return tuple(lease.grant for lease in self._leases.late(now))

    def records_done(self, kind: TaskKind) -> int:
        """Records of this kind's tasks that are done, all epochs."""
        return self._records_done[kind]

    def training_granted(self) -> tuple[int, int]:
        """Records and tasks of training that were ever granted: what groups must account for."""
        return self._training_granted

    def holders(self, task: int) -> list[int]:
        """The workers that hold a lease of this task."""
        return [lease.worker for lease in self._leases.of_task(task)]

    def grants_of(self, worker: int) -> set[int]:
        """What a worker holds."""
        return {lease.grant for lease in self._leases.of_worker(worker)}

    def knows(self, worker: int, incarnation: int) -> bool:
        """Whether this worker has asked for a lease, and is not lost."""
        return self._workers.get(worker) == incarnation

    # ------------------------------------------------------------------ phases

    def _next_phase(self, now: float = 0.0) -> list[Action]:
        """Enter the next phase that has tasks, or end the job."""
        actions: list[Action] = []
        if self._phase >= 0:
            actions.append(PhaseEnded(self.plan.phases[self._phase]))
        results, self._phase_results = self._phase_results, []
        self._phase += 1
        if self._phase == len(self.plan.phases):
            self.finished = True
            return [*actions, JobDone()]
        kind = self.plan.phases[self._phase]
        if kind is TaskKind.TRAINING:
            return actions + self._advance_training(now)
        if kind.spans_records:
            tasks = list(carve(self.plan.shards, kind, 0, self._next_id, self.plan))
            return actions + self._define(tasks)
        task = Task(self._next_id, kind, payload=json.dumps(self._payload(kind, results)))
        if kind is TaskKind.INITIALIZE:
            self._initialize = task
        return actions + self._define([task])

    @property
    def _is_initializing(self) -> bool:
        """Whether the partitions, or one of them, are still to get their initial values."""
        return self._initialize is not None and self._initialize.id in self._open

    def _wait_for_checkpoint(self, reason: str) -> list[Action]:
        if self._awaited_checkpoint == reason:  # It was said.
            return []
        self._awaited_checkpoint = reason
        return [CheckpointWanted(reason)]

    def _payload(self, kind: TaskKind, results: list[str]) -> Any:
        if kind is TaskKind.SUMMARIZE:
            return {"results": results, "epoch": 0, "pin": 0, "evaluated": True}
        if kind is TaskKind.EXPORT:
            restored = self.rounds.restored
            return {"copy": restored} if restored is not None else {}
        return results

    def _define(self, tasks: list[Task]) -> list[Action]:
        self._next_id += len(tasks)
        self.num_tasks += len(tasks)
        for task in tasks:
            self._open[task.id] = task
            self._num_open += task.kind is TaskKind.TRAINING
        current = self.rounds.current
        self._queue.add(tasks, first=current is not None and tasks[0].id in current.open)
        return [TasksDefined(tuple(tasks))]

    # ---------------------------------------------------------------- training

    def _define_epoch(self) -> list[Action]:
        self._epoch += 1
        if self.plan.lanes:
            tasks = list(carve_lanes(self.plan.shards, self._epoch, self._next_id, self.plan))
        else:
            kind = TaskKind.TRAINING
            tasks = list(carve(self.plan.shards, kind, self._epoch, self._next_id, self.plan))
        self._left_in_epoch[self._epoch] = len(tasks)
        return self._define(tasks)

    def _training_is_over(self) -> bool:
        """Whether no task of training is to be granted for the first time any more."""
        is_last = self._epoch + 1 >= self.plan.num_epochs
        return is_last or self._is_cut_short()

    def _is_cut_short(self) -> bool:
        return self._steps.are_over or bool(self.rounds.stopped)

    def _may_overlap(self) -> bool:
        """Whether the next epoch's tasks may be defined before this one's are done."""
        return (
            self.phase is TaskKind.TRAINING
            and self._epoch >= 0
            and not self.plan.lanes
            and not self._training_is_over()
            and not self.rounds.wanted_after(self._epoch)
        )

    def _drop_ungranted(self) -> None:
        """Forget tasks of training that were never granted: they are not wanted."""

        def drops(task: Task) -> bool:
            return task.kind is TaskKind.TRAINING and not task.granted

        for task in self._queue.drop(drops):
            del self._open[task.id]
            self._num_open -= 1
            self.num_tasks -= 1

    def _drop_if_stopped(self) -> None:
        """End training early; in sync mode at the epoch's end, as lanes go there in step."""
        if self.rounds.stopped and not self.plan.lanes:
            self._drop_ungranted()

    def _advance_training(self, now: float) -> list[Action]:
        """Begin what comes next in training: a round, an epoch, or the phase after it."""
        rounds = self.rounds
        if self.phase is not TaskKind.TRAINING:
            return []
        if not self._steps.are_wanted_after(self._num_under_way):
            self._drop_ungranted()
        self._drop_if_stopped()
        if rounds.current is not None:
            return []
        if self._num_open:
            due = rounds.begin_if_due(self.epoch, self.steps_done, now)
            return self._round_began() if due else []
        over = self._training_is_over()
        # Before the last evaluation: what is measured is what is exported, whoever dies.
        if over and self.plan.checkpoints and len(self._replays):
            return self._wait_for_checkpoint("final")
        if self._epoch_settled < self._epoch:
            self._epoch_settled = self._epoch
            if rounds.begin_after_epoch(self._epoch, self.steps_done, now, over):
                return self._round_began()
        if over:
            if rounds.begin_at_end(self.epoch, self.steps_done, now):
                return self._round_began()
            if rounds.begin_to_tell({"event": "train_end"}):
                return self._round_began()
            return self._next_phase(now)
        epoch_begin = {"event": "epoch_begin", "epoch": self._epoch + 1}
        if rounds.begin_to_tell({"event": "train_begin"}, epoch_begin):
            return self._round_began()
        return self._define_epoch()

    def _round_began(self) -> list[Action]:
        assert self.rounds.current is not None
        began = RoundBegan(self.rounds.current)
        return [began, *self._define(self.rounds.next_tasks(self._next_id))]

    def _round_task_done(self, task: Task, result: str, now: float) -> list[Action]:
        """Go on with the round when a stage is done, and with training when the round is."""
        current = self.rounds.current
        assert current is not None
        decisions = self.rounds.done(task, result)
        actions: list[Action] = []
        if task.kind is TaskKind.SUMMARIZE:
            actions.append(Evaluated(current))
        actions += [Decided(one, current.epoch, self.steps_done) for one in decisions]
        self._drop_if_stopped()
        if current.open:
            return actions
        tasks = self.rounds.next_tasks(self._next_id)
        if tasks:
            return actions + self._define(tasks)
        return actions + self._advance_training(now)

    # ------------------------------------------------------------------ leases

    def _lease_requested(self, event: LeaseRequested, now: float) -> list[Action]:
        if self.finished or self.failure is not None:
            return [NoMoreTasks()]
        key = (event.worker, event.incarnation)
        request, grant = self._answers.get(key, (-1, 0))
        lease = self._leases.get(grant)
        if request == event.request and lease is not None:
            return [Grant(lease.task, grant, repeated=True)]
        if event.request <= max(request, self._last_requests.get(key, -1)):
            return [self._wait()]  # It was answered: the worker asks with another number.
        self._last_requests[key] = event.request
        self._workers[event.worker] = event.incarnation
        actions: list[Action] = []
        # The next epoch's tasks exist before this one's last is done: nobody waits at its end.
        if not self._queue.row_length and self._may_overlap():
            actions += self._define_epoch()
        task = self._take(event.worker, event.incarnation) or self._straggling(event.worker, now)
        if task is None:
            return [*actions, self._wait()]
        grant = self._next_grant
        self._next_grant += 1
        expires = now + self.plan.lease_s
        self._leases.add(Lease(grant, task, event.worker, event.incarnation, expires, now))
        self._answers[key] = (event.request, grant)
        return [*actions, Grant(task, grant)]

    def _wait(self) -> Wait:
        """Ask again: the more workers there are, the later, as all may be waiting."""
        return Wait(max(RETRY_S, len(self._workers) / MOST_RETRIES_PER_S))

    def _straggling(self, worker: int, now: float) -> Task | None:
        """Return a task that another worker seems to be stuck with, where nothing else is left."""
        if not self.plan.backups or len(self._queue) or self._leases.of_worker(worker):
            return None
        if self.num_restarted:  # Two workers would not make the same minibatches of it.
            return None

        def may_be(lease: Lease) -> bool:
            task = lease.task
            kinds = (TaskKind.TRAINING, TaskKind.EVALUATION)
            return task.kind in kinds and len(self._leases.of_task(task.id)) == 1

        late = self._backups.overdue(self._leases, may_be, now)
        return None if late is None else late.task

    def _take(self, worker: int, incarnation: int) -> Task | None:
        """Take the next task to grant to a worker; None where there is none for it now."""
        num_others = sum(one.task.lane is None for one in self._leases.of_worker(worker))
        may_hold = num_others < LEASES_PER_WORKER
        if may_hold and not (num_others and self._queue.row_length < self._leases.num_workers):
            for position, task in enumerate(self._queue):
                if self._may_take(task, worker, incarnation):
                    return self._taken(self._queue.take(position))
                if task.kind is TaskKind.TRAINING:  # It waits for steps, as all after it do.
                    break
        held = [(one.worker, one.task) for one in self._leases.in_lanes()]
        if self._is_initializing:
            return None
        lane_task = self._queue.take_of_lanes(worker, held, len(self._workers))
        return None if lane_task is None else self._taken(lane_task)

    def _may_take(self, task: Task, worker: int, incarnation: int) -> bool:
        if self._is_initializing and task.kind is not TaskKind.INITIALIZE:
            return False
        current = self.rounds.current
        if self._replays.open and current is not None and task.id in current.open:
            return False
        if task.kind is TaskKind.CALLBACKS:
            host = self._host
            if host is None or self._workers.get(host[0]) != host[1]:
                self._host = (worker, incarnation)
            return self._host == (worker, incarnation)
        if task.granted or task.kind is not TaskKind.TRAINING:
            return True
        return self._steps.give(task, self._num_under_way)

    def _taken(self, task: Task) -> Task:
        if task.kind is TaskKind.TRAINING and not task.granted:
            records, tasks = self._training_granted
            self._training_granted = (records + task.num_records, tasks + 1)
            task.learning_rate = self.rounds.decisions.rate_of(task.epoch)
            self._num_under_way += 1
        task.granted = True
        return task

    def _leases_held(self, event: LeasesHeld, now: float) -> list[Action]:
        for grant in event.grants:
            lease = self._leases.get(grant)
            is_its = lease is not None and lease.worker == event.worker
            if lease is not None and is_its and lease.incarnation == event.incarnation:
                lease.expires = now + self.plan.lease_s
        return []

    def _tick(self, event: Tick, now: float) -> list[Action]:
        expired = self.late_grants(now) if event.expired is None else event.expired
        found = [self._leases.get(grant) for grant in expired]
        late = self._requeue([one for one in found if one is not None], "its lease ended")
        return late + self._advance_training(now)

    def _worker_lost(self, event: WorkerLost, now: float) -> list[Action]:
        lost = [
            lease
            for lease in self._leases.of_worker(event.worker)
            if lease.incarnation <= event.incarnation
        ]
        if self._workers.get(event.worker, event.incarnation + 1) <= event.incarnation:
            del self._workers[event.worker]
        return self._requeue(lost, f"worker {event.worker} was lost ({event.reason})")

    def _grants_returned(self, event: GrantsReturned, now: float) -> list[Action]:
        returned = [self._leases.get(grant) for grant in set(event.grants)]
        known = [lease for lease in returned if lease is not None]
        return self._requeue(known, "its worker gave it back")

    def _requeue(self, leases: list[Lease], reason: str) -> list[Action]:
        """End leases; a task nobody else works on is granted again before new ones."""
        actions: list[Action] = []
        for lease in self._with_followers(leases):
            self._leases.end(lease)
            task = lease.task
            if task.id in self._open and not self._leases.of_task(task.id):
                self._queue.add_again(task)
                actions.append(Requeued(task, reason))
        return actions

    def _with_followers(self, leases: list[Lease]) -> list[Lease]:
        """Add the leases of tasks that were granted because these were held: later in a lane."""
        all_of = {lease.grant: lease for lease in leases}
        for lease in leases:
            for other in self._leases.of_worker(lease.worker):
                if follows(other.task, lease.task):
                    all_of[other.grant] = other
        return list(all_of.values())

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

    def _task_differs(self, event: TaskDiffers, now: float) -> list[Action]:
        """Let a task begin anew under its next attempt; what groups have of this one goes."""
        task = self._open.get(event.task)
        if task is None or task.attempt != event.attempt:
            return []
        self.num_restarted += not task.attempt
        is_first = self.num_restarted == 1 and not task.attempt
        task.attempt += 1
        again = self._requeue(self._leases.of_task(task.id), "it begins anew")
        others = [one for one in again if isinstance(one, Requeued) and one.task is not task]
        return [*others, TaskRestarted(task, is_first)]

    # -------------------------------------------------------------- partitions

    def _partition_started(self, event: PartitionStarted, now: float) -> list[Action]:
        if event.incarnation <= self.partition_incarnations.get(event.index, LOST):
            return []
        self.partition_incarnations[event.index] = event.incarnation
        reason = f"parameter server {event.index} was restored without it"
        if event.closed is None:
            return self._initialize_again(f"parameter server {event.index} began empty")
        actions = self._begin_round_again()
        try:
            again = self._replays.restored(event.closed)
        except JobError as error:
            self.failure = JobFailed(str(error))
            return [self.failure]
        if again:
            self.rounds.forget_state()
        for task in reversed(again):
            self._open[task.id] = task
            self._num_open += 1
            self._num_under_way += 1
            self._queue.add_again(task)
            actions.append(Requeued(task, reason))
        return actions

    def _initialize_again(self, reason: str) -> list[Action]:
        """Have the initial values set again, where that was done."""
        task = self._initialize
        if task is None or task.id in self._open:
            return []
        self._open[task.id] = task
        self._queue.add_again(task)
        return [Requeued(task, reason)]

    def _begin_round_again(self) -> list[Action]:
        """Drop a round whose pin, or a part of it, is gone, and begin it anew."""
        current = self.rounds.current
        if current is None:
            return []
        dropped = current.open
        is_untouched = not any(self._open[task_id].granted for task_id in dropped)
        if current.stage is TaskKind.PIN and is_untouched:
            return []
        if not self.rounds.begin_again():
            return []
        self._queue.drop(lambda task: task.id in dropped)
        for task_id in dropped:
            del self._open[task_id]
            self.num_tasks -= 1
            for lease in self._leases.of_task(task_id):
                self._leases.end(lease)
        return self._round_began()

    def _partition_lost(self, event: PartitionLost, now: float) -> list[Action]:
        if event.index in self.partition_incarnations:
            self.partition_incarnations[event.index] = LOST
        return []

    def _partitions_placed(self, event: PartitionsPlaced, now: float) -> list[Action]:
        self.partition_incarnations = dict.fromkeys(range(event.num_partitions), LOST)
        return []

    def _checkpoint_committed(self, event: CheckpointCommitted, now: float) -> list[Action]:
        self._replays.committed(event.closed)
        awaited = self.checkpoint_wanted
        if awaited == "initial":
            self._awaited_checkpoint = ""
            return self._next_phase(now)
        if awaited == "final":
            self._awaited_checkpoint = ""
            return self._advance_training(now)
        return []

    def _rolled_back(self, event: RolledBack, now: float) -> list[Action]:
        self._next_id = max(self._next_id, event.next_id)
        self._next_grant = max(self._next_grant, event.next_grant)
        self.partition_incarnations = dict.fromkeys(self.partition_incarnations, LOST)
        # Who worked then may be gone, which is not known any more: who works now asks for leases.
        self._workers.clear()
        actions = self._begin_round_again()
        return actions + self._requeue(list(self._leases), "training goes on from a checkpoint")

    def _master_started(self, event: MasterStarted, now: float) -> list[Action]:
        self._next_grant = max(self._next_grant, event.incarnation * GRANTS_PER_MASTER)
        for lease in self._leases:
            lease.expires = now + self.plan.lease_s
        if not event.resumed:
            return []
        self.failure = None
        for task in self._open.values():
            task.failures = 0
        self._workers.clear()
        self.partition_incarnations = dict.fromkeys(self.partition_incarnations, LOST)
        return self._requeue(list(self._leases), "the job was resumed")

    # -------------------------------------------------------------- completion

    def _current_incarnations(self) -> tuple[int, ...]:
        return tuple(incarnation for _, incarnation in sorted(self.partition_incarnations.items()))

    def _task_completed(self, event: TaskCompleted, now: float) -> list[Action]:
        task = self._open.get(event.task)
        if task is None:
            return []
        is_current = event.partition_incarnations == self._current_incarnations()
        if task.kind.is_of_partitions and not is_current:
            reason = "a partition restarted before it was closed everywhere"
            return self._requeue(self._leases.of_task(task.id), reason)
        self._queue.withdraw(task)
        if not task.granted:  # By a master that was lost before it had written that down.
            self._taken(task)
        self._end_task(task, now)
        if task.kind is TaskKind.TRAINING:
            if not self._replays.done(task):
                return self._advance_training(now)
            self._steps.count(task, event.num_minibatches, event.limited)
        elif task is self._initialize:
            if self._is_initialized:  # A partition that began empty has its values, too.
                awaited = self._awaited_checkpoint
                return [CheckpointWanted(awaited)] if awaited else []
            self._is_initialized = True
        self._num_done += 1
        actions: list[Action] = [TaskDone(task, event.result)]
        current = self.rounds.current
        if current is not None and task.id in current.open:
            return actions + self._round_task_done(task, event.result, now)
        if event.result:
            self.results[task.id] = event.result
            self._phase_results.append(event.result)
        if task.kind is TaskKind.INITIALIZE and TaskKind.TRAINING in self.plan.phases:
            decisions = Decisions.of_initialize(event.result, self.plan.best_path)
            self.rounds.decisions = decisions
            self._phase_results.clear()
            if self.plan.checkpoints:
                return actions + self._wait_for_checkpoint("initial")
        if task.kind.spans_records:
            self._records_done[task.kind] += task.num_records
        if task.kind is TaskKind.TRAINING:
            self._left_in_epoch[task.epoch] -= 1
            if self._left_in_epoch[task.epoch] == 0:
                actions.append(EpochEnded(task.epoch))
            return actions + self._advance_training(now)
        return actions + ([] if self._open else self._next_phase(now))

    def _end_task(self, task: Task, now: float) -> None:
        del self._open[task.id]
        if task.kind is TaskKind.TRAINING:
            self._num_open -= 1
            self._num_under_way -= 1
        for lease in self._leases.of_task(task.id):
            if task.kind is self.phase:
                self._backups.done(now - lease.since)
            self._leases.end(lease)
