"""The ledger: every task is todo, leased or done, and this says which.

Pure: `actions = ledger.handle(event, now)` changes the ledger and nothing else; no thread, clock or
network. Handling an event twice has the effect of once.

Here is who works on what, and what becomes of it when somebody or something is lost; `open_tasks`
has the tasks, and `course` says which come next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elasticdl.errors import JobError
from elasticdl.master.backups import Backups, Overdue
from elasticdl.master.course import Course
from elasticdl.master.epoch_tasks import EpochTasks
from elasticdl.master.lanes import follows
from elasticdl.master.leases import Lease, Leases
from elasticdl.master.ledger_events import (
    RETRY_S,
    Action,
    CheckpointCommitted,
    Event,
    FellBack,
    Grant,
    GrantsReturned,
    JobFailed,
    LeaseRequested,
    LeasesHeld,
    MasterStarted,
    NoMoreTasks,
    PartitionLost,
    PartitionsPlaced,
    PartitionStarted,
    Requeued,
    RolledBack,
    Straggler,
    TaskCompleted,
    TaskDiffers,
    TaskFailed,
    TaskRestarted,
    Tick,
    Wait,
    WorkerLost,
)
from elasticdl.master.open_tasks import OpenTasks
from elasticdl.master.replays import Replays
from elasticdl.master.rounds import Rounds
from elasticdl.master.tasks import JobPlan, Task, TaskKind

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
        self.failure: JobFailed | None = None
        # Tasks that the input function did not make the same minibatches of each time.
        self.num_restarted = 0
        self.partition_incarnations: dict[int, int] = {}
        self._tasks = OpenTasks()
        self._replays = Replays(plan.keep_checkpoints)
        self._course = Course(plan, self._tasks, self._replays, now)
        self._was_ended = False
        self._next_grant = 1
        # Workers that have asked for a lease, and the one that runs the user's callbacks.
        self._workers: dict[int, int] = {}
        self._host: tuple[int, int] | None = None
        self._leases = Leases()
        self._backups = Backups()
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
            FellBack: self._fell_back,
            RolledBack: self._rolled_back,
            MasterStarted: self._master_started,
            Tick: self._tick,
        }
        self.first_actions = self._course.begin()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Change the ledger as `event` says and return what follows from it, in order."""
        return self._handlers[type(event)](event, now)

    def end(self) -> None:
        """Grant nothing any more."""
        self._was_ended = True

    # ------------------------------------------------------------ what it knows

    @property
    def finished(self) -> bool:
        """Whether nothing is granted any more: all is done, or the job was ended."""
        return self._was_ended or self._course.is_over

    @property
    def rounds(self) -> Rounds:
        """Rounds of evaluation and callbacks."""
        return self._course.rounds

    @property
    def phase(self) -> TaskKind | None:
        """The kind of tasks being worked on; None once all is done."""
        return self._course.phase

    @property
    def epoch(self) -> int:
        """The latest epoch whose tasks exist, from 0."""
        return self._course.epoch

    @property
    def is_between_epochs(self) -> bool:
        """Whether only a round is under way, and no task of training."""
        return self.rounds.current is not None and not self._tasks.num_training

    @property
    def num_tasks(self) -> int:
        """Tasks that were ever defined, without those that were dropped."""
        return self._tasks.num_defined

    @property
    def num_todo(self) -> int:
        return len(self._tasks.queue)

    @property
    def steps_done(self) -> int:
        """Steps of training that are done."""
        return self._course.steps_done

    @property
    def num_leased(self) -> int:
        return self._leases.num_tasks

    @property
    def num_done(self) -> int:
        return self._course.num_done

    @property
    def checkpoint_wanted(self) -> str:
        """As in `Course`: `initial` or `final` where nothing goes on before a checkpoint."""
        return self._course.checkpoint_wanted

    @property
    def undone_definitions(self) -> list[Task]:
        """The tasks of training that are not known to be closed in all groups of a checkpoint."""
        tasks = {task.id: task for task in self._replays}
        training = (task for task in self._tasks if task.kind is TaskKind.TRAINING)
        return [*{**tasks, **{task.id: task for task in training}}.values()]

    @property
    def ids_used(self) -> tuple[int, int]:
        """The next id of a task, and of a grant."""
        return self._tasks.next_id, self._next_grant

    @property
    def epochs(self) -> Mapping[int, EpochTasks]:
        """As in `Course`: what became of the tasks of each epoch so far."""
        return self._course.epochs

    @property
    def open_tasks(self) -> OpenTasks:
        """The tasks that are not done, for whoever looks at them."""
        return self._tasks

    def is_leased(self, task: int) -> bool:
        """Whether somebody works on a task."""
        return bool(self._leases.of_task(task))

    def is_replayed(self, task: int) -> bool:
        """Whether an open task was done before."""
        return task in self._replays.open

    def late_grants(self, now: float) -> tuple[int, ...]:
        """The leases that nobody extended in time."""
        return tuple(lease.grant for lease in self._leases.late(now))

    def records_done(self, kind: TaskKind) -> int:
        """Records of this kind's tasks that are done, all epochs."""
        return self._course.records_done[kind]

    @property
    def records_repeated(self) -> int:
        """As in `Course`: what was done again after a loss."""
        return self._course.records_repeated

    @property
    def to_repeat(self) -> tuple[int, int]:
        """Tasks that are to be done again after a loss, and their records."""
        return len(self._replays.open), self._replays.records_open

    def training_granted(self) -> tuple[int, int]:
        """Records and tasks of training that were ever granted: what groups must account for."""
        return self._tasks.training_granted

    def holders(self, task: int) -> list[int]:
        """The workers that hold a lease of this task."""
        return [lease.worker for lease in self._leases.of_task(task)]

    def can_go_back_to(self, checkpoint: int) -> bool:
        """Whether partitions can begin with this older checkpoint, and nothing is lost."""
        return self._replays.can_go_back_to(checkpoint)

    def grants_of(self, worker: int) -> set[int]:
        """What a worker holds."""
        return {lease.grant for lease in self._leases.of_worker(worker)}

    def knows(self, worker: int, incarnation: int) -> bool:
        """Whether this worker has asked for a lease, and is not lost."""
        return self._workers.get(worker) == incarnation

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
            return [self._wait(repeated=True)]  # The worker asks with another number.
        self._last_requests[key] = event.request
        self._workers[event.worker] = event.incarnation
        actions: list[Action] = []
        # The next epoch's tasks exist before this one's last is done: nobody waits at its end.
        if not self._tasks.queue.row_length:
            actions += self._course.define_ahead()
        task = self._take(event.worker, event.incarnation)
        late: Overdue | None = None
        if task is None:
            late = self._overdue(event.worker, now)
            task = late.lease.task if late is not None else None
        if task is None:
            return [*actions, self._wait()]
        grant = self._next_grant
        self._next_grant += 1
        expires = now + self.plan.lease_s
        self._leases.add(Lease(grant, task, event.worker, event.incarnation, expires, now))
        self._answers[key] = (event.request, grant)
        straggler = None
        if late is not None:
            straggler = Straggler(late.lease.worker, late.held_s, late.usual_s)
        return [*actions, Grant(task, grant, straggler=straggler)]

    def _wait(self, repeated: bool = False) -> Wait:
        """Ask again: the more workers there are, the later, as all may be waiting."""
        return Wait(max(RETRY_S, len(self._workers) / MOST_RETRIES_PER_S), repeated)

    def _overdue(self, worker: int, now: float) -> Overdue | None:
        """Return a lease that another worker seems to be stuck with, for one that has nothing."""
        if not self.plan.backups or self._leases.of_worker(worker):
            return None
        if self._course.is_initializing:  # All that is leased has to wait for that.
            return None
        if self.num_restarted:  # Two workers would not make the same minibatches of it.
            return None

        def may_be(lease: Lease) -> bool:
            task = lease.task
            kinds = (TaskKind.TRAINING, TaskKind.EVALUATION)
            return task.kind in kinds and len(self._leases.of_task(task.id)) == 1

        return self._backups.overdue(self._leases, may_be, now)

    def _take(self, worker: int, incarnation: int) -> Task | None:
        """Take the next task to grant to a worker; None where there is none for it now."""
        queue = self._tasks.queue
        num_others = sum(one.task.lane is None for one in self._leases.of_worker(worker))
        may_hold = num_others < LEASES_PER_WORKER
        if may_hold and not (num_others and queue.row_length < self._leases.num_workers):
            for position, task in enumerate(queue):
                if self._course.admits(task) and self._may_have(task, worker, incarnation):
                    return self._taken(queue.take(position))
                if task.kind is TaskKind.TRAINING:  # It waits for steps, as all after it do.
                    break
        held = [(one.worker, one.task) for one in self._leases.in_lanes()]
        if self._course.is_initializing:
            return None
        lane_task = queue.take_of_lanes(worker, held, len(self._workers))
        return None if lane_task is None else self._taken(lane_task)

    def _may_have(self, task: Task, worker: int, incarnation: int) -> bool:
        """Whether a worker may have a task; the user's callbacks run in one as long as it lives."""
        if task.kind is not TaskKind.CALLBACKS:
            return True
        host = self._host
        if host is None or self._workers.get(host[0]) != host[1]:
            self._host = (worker, incarnation)
        return self._host == (worker, incarnation)

    def _taken(self, task: Task) -> Task:
        if task.kind is TaskKind.TRAINING and not task.granted:
            task.learning_rate = self.rounds.decisions.rate_of(task.epoch)
        self._tasks.grant(task)
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
        late = self._requeue_each(found, "the lease of worker {} ended")
        return late + self._course.advance(now)

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
        return self._requeue_each(returned, "given back by worker {}")

    def _requeue_each(self, leases: Sequence[Lease | None], reason: str) -> list[Action]:
        """End those leases that there are, of each worker with a reason that names it."""
        known = [lease for lease in leases if lease is not None]
        actions: list[Action] = []
        for worker in dict.fromkeys(lease.worker for lease in known):
            of_it = [lease for lease in known if lease.worker == worker]
            actions += self._requeue(of_it, reason.format(worker))
        return actions

    def _requeue(self, leases: list[Lease], reason: str) -> list[Action]:
        """End leases; a task nobody else works on is granted again before new ones."""
        actions: list[Action] = []
        for lease in self._with_followers(leases):
            self._leases.end(lease)
            task = lease.task
            if task.id in self._tasks and not self._leases.of_task(task.id):
                self._tasks.queue.add_again(task)
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
        task = self._tasks.get(event.task)
        if task is None or task.attempt != event.attempt:
            return []
        self.num_restarted += not task.attempt
        is_first = self.num_restarted == 1 and not task.attempt
        task.attempt += 1
        again = self._requeue(self._leases.of_task(task.id), f"task {task.id} begins anew")
        others = [one for one in again if isinstance(one, Requeued) and one.task is not task]
        return [*others, TaskRestarted(task, is_first)]

    # -------------------------------------------------------------- partitions

    def _partition_started(self, event: PartitionStarted, now: float) -> list[Action]:
        if event.incarnation <= self.partition_incarnations.get(event.index, LOST):
            return []
        self.partition_incarnations[event.index] = event.incarnation
        reason = f"parameter server {event.index} was restored without it"
        if event.closed is None:
            return self._course.initialize_again(f"parameter server {event.index} began empty")
        actions = self._begin_round_again(f"parameter server {event.index} was lost meanwhile")
        try:
            again = self._replays.restored(event.closed)
        except JobError as error:
            self.failure = JobFailed(str(error))
            return [self.failure]
        if again:
            self.rounds.forget_state()
        for task in reversed(again):
            self._tasks.open_again(task)
            actions.append(Requeued(task, reason))
        return actions

    def _begin_round_again(self, why: str) -> list[Action]:
        dropped, actions = self._course.begin_round_again(why)
        for task_id in dropped:
            for lease in self._leases.of_task(task_id):
                self._leases.end(lease)
        return actions

    def _partition_lost(self, event: PartitionLost, now: float) -> list[Action]:
        if event.index in self.partition_incarnations:
            self.partition_incarnations[event.index] = LOST
        return []

    def _partitions_placed(self, event: PartitionsPlaced, now: float) -> list[Action]:
        self.partition_incarnations = dict.fromkeys(range(event.num_partitions), LOST)
        return []

    def _checkpoint_committed(self, event: CheckpointCommitted, now: float) -> list[Action]:
        self._replays.committed(event.number, event.closed)
        return self._course.checkpoint_committed(now)

    def _fell_back(self, event: FellBack, now: float) -> list[Action]:
        self._replays.fell_back(event.number, event.closed)
        return self._course.fell_back()

    def _rolled_back(self, event: RolledBack, now: float) -> list[Action]:
        self._tasks.next_id = max(self._tasks.next_id, event.next_id)
        self._next_grant = max(self._next_grant, event.next_grant)
        self.partition_incarnations = dict.fromkeys(self.partition_incarnations, LOST)
        # Who worked then may be gone, which is not known any more: who works now asks for leases.
        self._workers.clear()
        actions = self._begin_round_again("training goes on from a checkpoint")
        return actions + self._requeue(list(self._leases), "training goes on from a checkpoint")

    def _master_started(self, event: MasterStarted, now: float) -> list[Action]:
        self._next_grant = max(self._next_grant, event.incarnation * GRANTS_PER_MASTER)
        for lease in self._leases:
            lease.expires = now + self.plan.lease_s
        if not event.resumed:
            return []
        self.failure = None
        for task in self._tasks:
            task.failures = 0
        self._workers.clear()
        self.partition_incarnations = dict.fromkeys(self.partition_incarnations, LOST)
        return self._requeue(list(self._leases), "the job was resumed")

    # -------------------------------------------------------------- completion

    def _current_incarnations(self) -> tuple[int, ...]:
        return tuple(incarnation for _, incarnation in sorted(self.partition_incarnations.items()))

    def _task_completed(self, event: TaskCompleted, now: float) -> list[Action]:
        task = self._tasks.get(event.task)
        if task is None:
            return []
        is_current = event.partition_incarnations == self._current_incarnations()
        if self._course.waits_for_last and task.kind is TaskKind.EXPORT:
            is_current = False  # Of what partitions held before they have caught up.
        if task.kind.is_of_partitions and not is_current:
            reason = "a partition restarted before it was closed everywhere"
            return self._requeue(self._leases.of_task(task.id), reason)
        self._tasks.queue.withdraw(task)
        if not task.granted:  # By a master that was lost before it had written that down.
            self._taken(task)
        self._tasks.done(task)
        for lease in self._leases.of_task(task.id):
            if task.kind is self.phase:
                self._backups.done(now - lease.since)
            self._leases.end(lease)
        return self._course.task_done(task, event, now)
