"""A cluster in simulated time around a real ledger and a real membership; nothing else is real.

Workers start, lease, beat, train, are preempted (one by one and in storms), fall silent and are
replaced; parameter servers die, and are restored from the last checkpoint. What groups know is kept
per task: the minibatches applied, and by which partitions it is not closed.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from elasticdl.data.shards import Shard
from elasticdl.heartbeat import FIRST_PAUSE_S, LONGEST_PAUSE_S
from elasticdl.master import ledger_events, membership_events
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership import HEARTBEAT_S, Membership
from elasticdl.master.tasks import JobPlan, Task, TaskKind
from elasticdl.ps.interval_set import IntervalSet

TICK_S = 0.2
RECORDS_PER_SHARD = 10_000_000


@dataclass(frozen=True)
class Settings:
    """What is simulated.

    Attributes:
      minibatch_s: what a worker takes for one, give or take a fifth.
      start_s: what an instance takes to start, give or take a half.
      deaths_per_hour: of each worker, at random times.
      ps_deaths_per_hour: of each parameter server, likewise.
      checkpoint_s: seconds between checkpoints; one takes as long as an instance to start.
      storms: times at which `storm_share` of the workers are preempted at once.
      away_s: how long a storm's places stay empty.
      cut_share: of the deaths, those that nobody sees: the worker is cut off from the master.
      repeated_share: of the requests, those whose reply is lost, so that they are sent again.
    """

    workers: int = 10_000
    partitions: int = 100
    records: int = 1_000_000_000
    minibatch_size: int = 64
    records_per_task: int = 16_384
    num_epochs: int = 1
    minibatch_s: float = 0.25
    start_s: float = 10.0
    deaths_per_hour: float = 2.0
    ps_deaths_per_hour: float = 0.2
    checkpoint_s: float = 60.0
    storms: int = 3
    storm_share: float = 0.3
    away_s: float = 60.0
    cut_share: float = 0.1
    repeated_share: float = 0.01
    lease_s: float = 30.0
    seed: int = 0

    @property
    def calm_s(self) -> float:
        """How long training takes if nobody dies."""
        minibatches = self.records * self.num_epochs / self.minibatch_size
        return minibatches * self.minibatch_s / self.workers

    def plan(self) -> JobPlan:
        """The job: initialize, train, export."""
        sizes = [RECORDS_PER_SHARD] * (self.records // RECORDS_PER_SHARD)
        rest = self.records % RECORDS_PER_SHARD
        sizes += [rest] if rest else []
        return JobPlan(
            (TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT),
            tuple(Shard(f"shard-{index:05d}", size) for index, size in enumerate(sizes)),
            num_epochs=self.num_epochs,
            minibatch_size=self.minibatch_size,
            records_per_task=self.records_per_task,
            seed=self.seed,
            lease_s=self.lease_s,
            checkpoints=True,
        )


@dataclass
class Cost:
    """What one kind of event took the ledger or the membership, in seconds of this processor."""

    count: int = 0
    total_s: float = 0.0
    worst_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        self.worst_s = max(self.worst_s, seconds)


@dataclass
class Work:
    """A task that a worker holds; once begun, the minibatch it began at, when, and how fast."""

    task: Task
    grant: int
    first: int = 0
    began: float = -1.0
    minibatch_s: float = 0.0


@dataclass
class Worker:
    """One incarnation of a worker, as it is itself; `cut` from the master, which it cannot hear."""

    spec: InstanceSpec
    request: int = 0
    held: list[Work] = field(default_factory=list)
    asking: bool = False
    joining: bool = False
    alive: bool = True
    cut: bool = False
    cluster_version: int = -1


class SimulatedCluster:
    """One job from its start to its end, in simulated time.

    Attributes:
      now: simulated seconds.
      costs: what the real parts took, by kind of event.
      granted_records: of all grants, repeats left out.
      num_training_leases: of tasks to train, likewise.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 0.0
        self.costs: dict[str, Cost] = {}
        self.deaths: Counter[str] = Counter()
        self.granted_records = 0
        self.num_training_leases = 0
        self._trained_from: float | None = None
        self._trained_until = 0.0
        self.applied_minibatches = 0
        self.most_waiting = 0
        self._waits_in_second: Counter[int] = Counter()
        self._polls_in_second: Counter[int] = Counter()
        self._random = random.Random(settings.seed)
        plan = settings.plan()
        self.plan = plan
        self.ledger = Ledger(plan)
        self.membership = Membership(
            settings.workers, settings.partitions, silence_s=settings.lease_s
        )
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._workers: dict[InstanceSpec, Worker] = {}
        self._present: dict[int, InstanceSpec] = {}
        self._incarnations: dict[int, int] = {}
        # Of the groups, which are alike here: the minibatches applied of each task under way.
        self._next: dict[int, int] = {}
        # The most that any group ever had of each, and the tasks that every group has closed, or
        # had: in those restored from a checkpoint before that they are missing.
        self._reached: dict[int, int] = {}
        self._closed = IntervalSet()
        self._missing: dict[int, set[int]] = {}
        self._next_at_commit: dict[int, int] = {}
        self._committed: tuple[tuple[int, int], ...] | None = None
        self._num_checkpoints = 0
        self._is_writing = False
        self._tasks: dict[int, Task] = {}
        self._done: set[int] = set()
        self._ended: ledger_events.Action | None = None
        self._storm_over = 0.0

    def run(self) -> None:
        """Play the job to its end.

        Raises:
          AssertionError: it does not end, or something was lost or counted twice.
        """
        settings = self.settings
        self._carry_out(self.ledger.first_actions)
        self._carry_out_membership(self.membership.start(self.now))
        self._after(TICK_S, self._tick)
        if settings.deaths_per_hour:
            self._after(self._until_death(), self._die_by_chance)
        if settings.ps_deaths_per_hour:
            self._after(self._until_ps_death(), self._lose_partition)
        self._after(settings.checkpoint_s, self._checkpoint_by_time)
        begin = 2 * settings.start_s
        for storm in range(settings.storms):
            at = begin + settings.calm_s * (storm + 0.5) / settings.storms
            self._after(at, self._storm)
        latest = 20 * (begin + settings.calm_s + settings.storms * settings.away_s + 60)
        while self._ended is None:
            self.now, _, what, arguments = heapq.heappop(self._queue)
            assert self.now < latest, f"the job did not end: {self.ledger.num_todo} tasks to do"
            what(*arguments)
        self._check()

    @property
    def events(self) -> int:
        """What the real parts were told in all."""
        return sum(cost.count for cost in self.costs.values())

    @property
    def training_s(self) -> float:
        """Simulated seconds from the first task that was leased to train to the last one done."""
        return self._trained_until - (self._trained_from or 0.0)

    @property
    def core_s(self) -> float:
        """Seconds of this machine that the real parts took in all."""
        return sum(cost.total_s for cost in self.costs.values())

    def _note_training(self) -> None:
        self._trained_from = self.now if self._trained_from is None else self._trained_from
        self._trained_until = self.now

    # -------------------------------------------------------------- simulated time

    def _after(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + seconds, self._number, what, arguments))

    def _about(self, seconds: float, share: float) -> float:
        return seconds * self._random.uniform(1 - share, 1 + share)

    def _tell_ledger(self, event: ledger_events.Event) -> list[ledger_events.Action]:
        began = time.thread_time()
        actions = self.ledger.handle(event, self.now)
        self._cost("ledger", event).add(time.thread_time() - began)
        return actions

    def _tell_membership(self, event: membership_events.Event) -> None:
        began = time.thread_time()
        actions = self.membership.handle(event, self.now)
        self._cost("membership", event).add(time.thread_time() - began)
        self._carry_out_membership(actions)

    def _cost(self, part: str, event: object) -> Cost:
        return self.costs.setdefault(f"{part} {type(event).__name__}", Cost())

    def _carry_out(self, actions: list[ledger_events.Action]) -> None:
        for action in actions:
            if isinstance(action, ledger_events.TasksDefined):
                for task in action.tasks:
                    assert task.id not in self._tasks, "task ids are unique"
                    self._tasks[task.id] = task
            elif isinstance(action, ledger_events.TaskDone):
                assert action.task.id not in self._done, f"{action.task} was done twice"
                self._done.add(action.task.id)
                self._tell_membership(membership_events.Progressed())
            elif isinstance(action, ledger_events.CheckpointWanted):
                self._checkpoint_if_wanted()
            elif isinstance(action, ledger_events.JobDone | ledger_events.JobFailed):
                self._ended = action

    def _carry_out_membership(self, actions: list[membership_events.Action]) -> None:
        for action in actions:
            if isinstance(action, membership_events.Launch):
                self._launch(action.spec)
            elif isinstance(action, membership_events.Stop):
                self._end(action.spec)
            elif isinstance(action, membership_events.WorkerGone):
                lost = ledger_events.WorkerLost(action.spec.index, action.spec.incarnation)
                self._carry_out(self._tell_ledger(lost))
            elif isinstance(action, membership_events.PartitionUp):
                self._incarnations[action.spec.index] = action.spec.incarnation
                self._restore(action.spec.index)
                up = ledger_events.PartitionStarted(
                    action.spec.index, action.spec.incarnation, action.closed
                )
                self._carry_out(self._tell_ledger(up))
            elif isinstance(action, membership_events.PartitionLost):
                lost_ps = ledger_events.PartitionLost(action.spec.index)
                self._carry_out(self._tell_ledger(lost_ps))
            elif isinstance(action, membership_events.GiveUp):
                raise AssertionError(f"the job was given up: {action.message}")

    def _tick(self) -> None:
        self._carry_out(self._tell_ledger(ledger_events.Tick()))
        self._tell_membership(membership_events.Tick())
        self._after(TICK_S, self._tick)

    # ------------------------------------------------------------------ instances

    def _launch(self, spec: InstanceSpec) -> None:
        empty_for = max(0.0, self._storm_over - self.now) if spec.role is Role.WORKER else 0.0
        start_s = self._about(self.settings.start_s, 0.5)
        if spec.role is Role.WORKER:
            self._workers[spec] = Worker(spec)
            self._present[spec.index] = spec
            self._after(empty_for + start_s, self._join, spec)
        else:
            self._after(start_s / 5, self._serve, spec)

    def _serve(self, spec: InstanceSpec) -> None:
        """A parameter server is up with what the last checkpoint has, and beats."""
        if not self.membership.is_current(spec):
            return
        address = f"host-{spec.index}:{spec.incarnation}"
        registered = membership_events.Registered(spec, address, closed=self._committed)
        if self.membership.is_news(registered):
            self._tell_membership(registered)
        self._tell_membership(membership_events.Heard(spec))
        self._after(HEARTBEAT_S, self._serve, spec)

    def _join(self, spec: InstanceSpec, pause_s: float = FIRST_PAUSE_S) -> None:
        """A worker is up: it asks until all partitions are, then works."""
        worker = self._workers.get(spec)
        if worker is None or not self.membership.is_current(spec):
            return
        self._tell_membership(membership_events.Registered(spec))
        began = time.thread_time()
        partitions = self.membership.partitions()
        self.costs.setdefault("membership partitions", Cost()).add(time.thread_time() - began)
        worker.joining = partitions is None
        if partitions is None:
            self._polls_in_second[int(self.now)] += 1
            rest_s = max(pause_s, self.membership.retry_after_s)
            self._after(rest_s, self._join, spec, min(1.5 * pause_s, LONGEST_PAUSE_S))
            return
        if worker.cluster_version < 0:
            self._after(self._random.random() * HEARTBEAT_S, self._beat, worker)
        worker.cluster_version = self.membership.cluster_version
        if not worker.asking:
            self._ask(worker)

    def _beat(self, worker: Worker) -> None:
        if not worker.alive or worker.cut:
            return
        self._tell_membership(membership_events.Heard(worker.spec))
        grants = tuple(work.grant for work in worker.held)
        held = ledger_events.LeasesHeld(worker.spec.index, worker.spec.incarnation, grants)
        self._carry_out(self._tell_ledger(held))
        began = time.thread_time()
        version = self.membership.cluster_version
        self.costs.setdefault("membership version", Cost()).add(time.thread_time() - began)
        if version != worker.cluster_version:
            self._go_stale(worker)
        self._after(HEARTBEAT_S, self._beat, worker)

    def _go_stale(self, worker: Worker) -> None:
        """A partition came or went: the worker gives back what it has, and joins again."""
        if worker.held:
            self._stand(worker)
            grants = tuple(work.grant for work in worker.held)
            worker.held.clear()
            returned = self._tell_ledger(ledger_events.GrantsReturned(grants))
            self._carry_out(returned)
        if not worker.joining:
            self._join(worker.spec)

    # ---------------------------------------------------------------- partitions

    def _until_ps_death(self) -> float:
        return self._random.expovariate(
            self.settings.partitions * self.settings.ps_deaths_per_hour / 3600
        )

    def _lose_partition(self) -> None:
        index = self._random.randrange(self.settings.partitions)
        spec = InstanceSpec(Role.PS, index, self._incarnations.get(index, 0))
        if self.membership.is_current(spec):
            self.deaths["parameter servers"] += 1
            self._tell_membership(membership_events.Ended(spec, End.of_exit_code(-9)))
        self._after(self._until_ps_death(), self._lose_partition)

    def _restore(self, index: int) -> None:
        """The partition is where the last checkpoint was begun."""
        if self._committed is None:
            return
        covered = IntervalSet.of([bound for pair in self._committed for bound in pair])
        self._missing[index] = {
            task for task in self._tasks if task in self._closed and task not in covered
        }
        for task, reached in self._next.items():
            self._next[task] = min(reached, self._next_at_commit.get(task, 0))

    def _checkpoint_by_time(self) -> None:
        if self.ledger.phase is TaskKind.TRAINING and not self._is_writing:
            self._begin_checkpoint()
        self._after(self.settings.checkpoint_s, self._checkpoint_by_time)

    def _checkpoint_if_wanted(self) -> None:
        if not self.ledger.checkpoint_wanted or self._ended is not None:
            return
        if not self._is_writing:
            self._begin_checkpoint()
        self._after(1.0, self._checkpoint_if_wanted)

    def _begin_checkpoint(self) -> None:
        self._is_writing = True
        missing = set().union(*self._missing.values())
        closed = IntervalSet()
        for start, end in self._closed.intervals:
            for task in range(start, end):
                if task not in missing:
                    closed.add(task)
        incarnations = dict(self._incarnations)
        self._after(
            self._about(self.settings.start_s, 0.5),
            self._commit,
            tuple(closed.intervals),
            dict(self._next),
            incarnations,
        )

    def _commit(
        self,
        closed: tuple[tuple[int, int], ...],
        reached: dict[int, int],
        incarnations: dict[int, int],
    ) -> None:
        self._is_writing = False
        if self.membership.partitions() is None or incarnations != self._incarnations:
            return  # A partition was lost on the way, and its part with it.
        self._num_checkpoints += 1
        self._committed, self._next_at_commit = closed, reached
        event = ledger_events.CheckpointCommitted(self._num_checkpoints, closed)
        self._carry_out(self._tell_ledger(event))

    # ----------------------------------------------------------------------- work

    def _ask(self, worker: Worker) -> None:
        """Lease a task, one ahead of the one that is worked on."""
        worker.asking = False
        if not worker.alive or worker.cut or len(worker.held) >= 2:
            return
        event = ledger_events.LeaseRequested(
            worker.spec.index, worker.spec.incarnation, worker.request
        )
        *before, answer = self._tell_ledger(event)
        self._carry_out(before)
        if isinstance(answer, ledger_events.Grant) and self._chance(self.settings.repeated_share):
            repeated = self._tell_ledger(event)[-1]
            assert isinstance(repeated, ledger_events.Grant)
            assert (repeated.grant, repeated.repeated) == (answer.grant, True)
        worker.request += 1
        if isinstance(answer, ledger_events.Grant):
            worker.held.append(Work(answer.task, answer.grant))
            self.granted_records += answer.task.num_records
            if answer.task.kind is TaskKind.TRAINING:
                self.num_training_leases += 1
                self._note_training()
            if len(worker.held) == 1:
                self._begin(worker)
            self._ask(worker)
        elif isinstance(answer, ledger_events.Wait):
            self._waits_in_second[int(self.now)] += 1
            worker.asking = True
            self._after(answer.retry_after_s, self._ask, worker)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _num_minibatches(self, task: Task) -> int:
        if task.kind is not TaskKind.TRAINING:
            return 1
        return -(-task.num_records // self.settings.minibatch_size)

    def _begin(self, worker: Worker) -> None:
        """Work on the first of the held tasks, from where the groups stand."""
        work = worker.held[0]
        work.first = self._next.get(work.task.id, 0)
        work.began = self.now
        work.minibatch_s = self._about(self.settings.minibatch_s, 0.2)
        left = self._num_minibatches(work.task) - work.first
        self._after(left * work.minibatch_s, self._finish, worker, work)

    def _apply(self, work: Work, upto: int) -> None:
        """The groups have the task's minibatches below `upto`; what they had is dropped."""
        task = work.task.id
        self._next[task] = max(upto, self._next.get(task, 0))
        had = self._reached.get(task, 0)
        if upto > had:
            self._reached[task] = upto
            if work.task.kind is TaskKind.TRAINING:
                self.applied_minibatches += upto - had

    def _finish(self, worker: Worker, work: Work) -> None:
        if not worker.alive or not worker.held or worker.held[0] is not work:
            return
        if worker.cluster_version != self.membership.cluster_version:
            return  # Some partition does not answer; the next sign of life tells why.
        self._apply(work, self._num_minibatches(work.task))
        if work.task.kind is TaskKind.TRAINING:
            self._note_training()
            self._closed.add(work.task.id)
            for missing in self._missing.values():
                missing.discard(work.task.id)
        worker.held.pop(0)
        if worker.cut:  # It cannot say so; whoever has the task next finds it closed.
            if worker.held:
                self._begin(worker)
            return
        incarnations = tuple(one for _, one in sorted(self._incarnations.items()))
        trains = work.task.kind is TaskKind.TRAINING
        event = ledger_events.TaskCompleted(
            work.task.id, incarnations, self._num_minibatches(work.task) if trains else 0
        )
        for _ in range(2 if self._chance(self.settings.repeated_share) else 1):
            self._carry_out(self._tell_ledger(event))
        if worker.held:
            self._begin(worker)
        if not worker.asking:
            self._ask(worker)

    # ------------------------------------------------------------------- bad luck

    def _until_death(self) -> float:
        return self._random.expovariate(
            self.settings.workers * self.settings.deaths_per_hour / 3600
        )

    def _die_by_chance(self) -> None:
        spec = self._random_worker()
        if self._chance(self.settings.cut_share):
            if spec in self._workers and not self._workers[spec].cut:
                self.deaths["cut off"] += 1
                self._workers[spec].cut = True
        else:
            self._preempt(spec, "one by one")
        self._after(self._until_death(), self._die_by_chance)

    def _random_worker(self) -> InstanceSpec:
        return self._present[self._random.randrange(self.settings.workers)]

    def _storm(self) -> None:
        """Preempt a share of all workers at once; their places stay empty for a while."""
        self._storm_over = self.now + self.settings.away_s
        count = int(self.settings.storm_share * self.settings.workers)
        for index in self._random.sample(range(self.settings.workers), count):
            self._preempt(self._present[index], "in storms")

    def _preempt(self, spec: InstanceSpec, how: str) -> None:
        if spec not in self._workers or not self.membership.is_current(spec):
            return
        self.deaths[how] += 1
        self._end(spec)
        self._tell_membership(membership_events.Ended(spec, End.of_exit_code(-9)))

    def _end(self, spec: InstanceSpec) -> None:
        """The process is gone; what it had pushed stays."""
        worker = self._workers.pop(spec, None)
        if worker is None:
            return
        worker.alive = False
        self._stand(worker)

    def _stand(self, worker: Worker) -> None:
        """What the worker has pushed so far of the task it works on is applied."""
        if worker.held and worker.held[0].began >= 0:
            work = worker.held[0]
            if work.task.kind is not TaskKind.TRAINING or work.task.id in self._closed:
                return
            upto = work.first + int((self.now - work.began) / work.minibatch_s)
            self._apply(work, min(upto, self._num_minibatches(work.task) - 1))

    # ---------------------------------------------------------------------- proof

    def _check(self) -> None:
        """Every record of every epoch is in one task, which was done once and applied once."""
        assert isinstance(self._ended, ledger_events.JobDone), self._ended
        tasks = [task for task in self._tasks.values() if task.kind is TaskKind.TRAINING]
        assert self._done == set(self._tasks), "some task was never done"
        found = sorted((task.epoch, task.shard, task.start, task.end) for task in tasks)
        expected = [
            (epoch, shard.path, start, min(start + self.plan.records_per_task, shard.num_records))
            for epoch in range(self.plan.num_epochs)
            for shard in self.plan.shards
            for start in range(0, shard.num_records, self.plan.records_per_task)
        ]
        assert found == expected, "the tasks are not the data, each record once an epoch"
        minibatches = sum(self._num_minibatches(task) for task in tasks)
        assert self.applied_minibatches == minibatches, "a minibatch was lost or applied twice"
        assert self.ledger.steps_done == minibatches
        assert all(task.id in self._closed for task in tasks)
        assert not any(self._missing.values()), "a restored partition never saw some task again"
        records = self.settings.records * self.settings.num_epochs
        assert self.ledger.training_granted() == (records, len(tasks))
        assert self.ledger.records_done(TaskKind.TRAINING) == records
        assert (self.ledger.num_todo, self.ledger.num_leased) == (0, 0)

    @property
    def num_checkpoints(self) -> int:
        """Those that were committed."""
        return self._num_checkpoints

    @property
    def most_polls_per_s(self) -> int:
        """Registrations of workers in the worst second that had to wait for a partition."""
        return max(self._polls_in_second.values(), default=0)

    @property
    def most_waits_per_s(self) -> int:
        """Requests that were answered with Wait in the worst second."""
        return max(self._waits_in_second.values(), default=0)
