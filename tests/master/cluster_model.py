"""A whole cluster in one thread: the real ledger, the real progress of groups, and bad luck.

Workers lease, push minibatches partition by partition, lose requests and replies, repeat old
pushes, fall silent, die and are replaced, in an order fixed by a seed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from elasticdl.master import ledger_events as events
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import Grant, JobDone, JobFailed, NoMoreTasks, TasksDefined
from elasticdl.master.tasks import JobPlan, Task, TaskKind
from elasticdl.ps.progress import CLOSED, Progress

CLOSING = -1
"""In the place of a digest: the closing frame."""


@dataclass(frozen=True)
class Reading:
    """What the input function made of a task once: sizes of minibatches, and running digests."""

    task: Task
    attempt: int
    sizes: list[int]
    digests: list[int]

    def digest(self, k: int) -> int:
        """Of the minibatches before k."""
        return self.digests[k - 1] if k else 0


@dataclass
class Work:
    """A held task: the minibatch to push next, and per partition whether it was acknowledged."""

    task: Task
    grant: int
    reading: Reading
    k: int
    waiting: set[int] = field(default_factory=set)


@dataclass
class Worker:
    index: int
    incarnation: int
    request: int = 0
    held: list[Work] = field(default_factory=list)


class ClusterModel:
    """One job on a simulated cluster; `run` plays it to its end.

    After it: `applied[partition, group, task, k, attempt, digest]` counts how often each minibatch
    was applied; `varies` makes the input function one that is not deterministic.
    """

    varies = False

    def __init__(self, plan: JobPlan, num_workers: int, num_partitions: int, seed: int) -> None:
        self.plan = plan
        self.random = random.Random(seed)
        self.now = 0.0
        self.ledger = Ledger(plan, self.now)
        self.partitions = [Progress(3) for _ in range(num_partitions)]
        self.applied: Counter[tuple[int, ...]] = Counter()
        # By task: every reading's digests, and how many records they are of.
        self.readings: dict[int, dict[tuple[int, ...], list[int]]] = {}
        self.workers = [Worker(index, 1) for index in range(num_workers)]
        self.tasks: dict[int, Task] = {}
        self.old_pushes: list[tuple[int, Reading, int]] = []
        self.ended: events.Action | None = None
        self.errors_per_task: Counter[int] = Counter()
        self.deaths = 0
        self.rounds: dict[int, Counter[str]] = {}
        self.round_ended: list[int] = []
        self.told: list[str] = []
        self.tasks_done: set[int] = set()
        self.losses = random.Random(seed)
        self.initialized: dict[str, Any] = {}
        for index in range(num_partitions):
            self.ledger.handle(events.PartitionStarted(index, 1), self.now)
        self._note(self.ledger.first_actions)

    # What the input function makes of a task: deterministic, and it drops and adds records.
    def minibatch_sizes(self, task: Task) -> list[int]:
        chance = random.Random(f"{task.shard}/{task.start}/{task.epoch}")
        kept = task.num_records - chance.choice([0, 0, 0, 1, task.num_records])
        size = self.plan.minibatch_size
        sizes = [size] * (kept // size) + ([kept % size] if kept % size else [])
        return sizes if task.max_minibatches is None else sizes[: task.max_minibatches]

    def read(self, task: Task) -> Reading:
        """Read a task; where the input function varies, from some minibatch on it is another."""
        sizes, salt, same = self.minibatch_sizes(task), 0, 0
        if self.varies and self.random.random() < 0.8:
            salt, same = self.random.getrandbits(60), self.random.randrange(len(sizes) + 1)
            size = self.plan.minibatch_size
            others = [self.random.randint(1, size) for _ in range(self.random.randrange(6))]
            sizes = [*sizes[:same], *others][: task.max_minibatches]
        digests = [1 + k + (salt if k >= same else 0) for k in range(len(sizes))]
        self.readings.setdefault(task.id, {})[tuple(digests)] = sizes
        return Reading(task, task.attempt, sizes, digests)

    def run(self, disturbances: int) -> None:
        for _step in range(200_000):
            if self.ended is not None:
                return
            self.now += self.random.random()
            if disturbances > 0 and self.random.random() < 0.15:
                disturbances -= 1
                self.disturb()
            else:
                self.progress(self.random.choice(self.workers), calm=disturbances <= 0)
        raise AssertionError(f"the job did not end: {vars(self.ledger)}")

    def _note(self, actions: list[events.Action]) -> None:
        for action in actions:
            if isinstance(action, TasksDefined):
                for task in action.tasks:
                    assert task.id not in self.tasks, "task ids are unique"
                    self.tasks[task.id] = task
            if isinstance(action, events.TaskDone):
                self.note_done(action.task)
            if isinstance(action, JobDone | JobFailed):
                self.ended = action

    def note_done(self, task: Task) -> None:
        assert task.id not in self.tasks_done, "a task is done once"
        self.tasks_done.add(task.id)
        if task.kind is TaskKind.EVALUATION:
            where = f"{task.shard} {task.start}:{task.end}"
            self.rounds.setdefault(task.pin, Counter())[where] += 1
        if task.kind is TaskKind.CALLBACKS:
            for event in json.loads(task.payload)["events"]:
                self.told.append(f"{event['event']} {event.get('epoch', '')}".strip())

    def result(self, task: Task) -> str:
        """What a worker answers with."""
        if task.kind is TaskKind.INITIALIZE:
            return json.dumps(self.initialized)
        if task.kind is TaskKind.SUMMARIZE:
            loss = self.losses.random()
            if not json.loads(task.payload)["evaluated"]:
                return json.dumps({"metrics": {}, "logs": {"loss": loss}})
            return json.dumps({"metrics": {"loss": loss}, "logs": {"loss": 1.0, "val_loss": loss}})
        return ""

    # ---------------------------------------------------------------- bad luck

    def disturb(self) -> None:
        worker = self.random.choice(self.workers)
        kind = self.random.randrange(6)
        if kind == 0:  # Preempted; a replacement joins.
            self.deaths += 1
            lost = events.WorkerLost(worker.index, worker.incarnation, "preempted")
            self._note(self.ledger.handle(lost, self.now))
            self.workers[worker.index] = Worker(worker.index, worker.incarnation + 1)
        elif kind == 1:  # Cut off long enough that its leases end, while it works on.
            self.now += self.plan.lease_s + 1
            for other in self.workers:
                if other is not worker:
                    grants = tuple(work.grant for work in other.held)
                    held = events.LeasesHeld(other.index, other.incarnation, grants)
                    self._note(self.ledger.handle(held, self.now - 0.5))
            self._note(self.ledger.handle(events.Tick(), self.now))
        elif kind == 2 and self.old_pushes:  # A push that was thought lost arrives after all.
            self.deliver(*self.random.choice(self.old_pushes))
        elif kind == 3 and worker.held:  # It gives back what it holds.
            grants = tuple(work.grant for work in worker.held)
            worker.held.clear()
            self._note(self.ledger.handle(events.GrantsReturned(grants), self.now))
        elif kind == 4 and worker.held:  # Its model code raises, not too often.
            work = worker.held[0]
            if self.errors_per_task[work.task.id] < self.plan.max_task_failures - 1:
                self.errors_per_task[work.task.id] += 1
                worker.held.pop(0)
                failed = events.TaskFailed(work.grant, "boom")
                self._note(self.ledger.handle(failed, self.now))
                self._note(self.ledger.handle(failed, self.now))  # Twice has the effect of once.

        elif kind == 5:
            self.ask_late(worker)

    def ask_late(self, worker: Worker) -> None:
        """Let an earlier request for a lease arrive once more, whose answer nobody waits for."""
        if not worker.request:
            return
        number = self.random.randrange(worker.request)
        late = events.LeaseRequested(worker.index, worker.incarnation, number)
        *before, answer = self.ledger.handle(late, self.now)
        self._note(before)
        assert not isinstance(answer, Grant) or answer.repeated, "granted to nobody"

    # ---------------------------------------------------------------- progress

    def progress(self, worker: Worker, calm: bool) -> None:
        if not worker.held or self.random.random() < 0.1:
            self.lease(worker, calm)
        if worker.held:
            self.push(worker, worker.held[0], calm)

    def lease(self, worker: Worker, calm: bool) -> None:
        request = events.LeaseRequested(worker.index, worker.incarnation, worker.request)
        *before, answer = self.ledger.handle(request, self.now)
        self._note(before)
        if not calm and self.random.random() < 0.2:
            return  # The reply is lost; the worker asks again with the same number.
        worker.request += 1
        if isinstance(answer, Grant):
            task = answer.task
            self.check_grant(worker, task)
            worker.held.append(self.begin(task, answer.grant))
        else:
            assert not isinstance(answer, NoMoreTasks), "the ledger ended without saying so"

    def begin(self, task: Task, grant: int) -> Work:
        reading = self.read(task)
        first = min(one.next(task.id, reading.attempt) for one in self.partitions)
        start = 0 if first == CLOSED else min(first, len(reading.sizes))
        return Work(task, grant, reading, start, set(range(len(self.partitions))))

    def check_grant(self, worker: Worker, task: Task) -> None:
        """What may be granted now: lanes in order, and nothing of training while others settle."""
        if task.lane is not None:
            before = [
                other
                for other in self.tasks.values()
                if other.lane is not None
                and (other.epoch, other.lane.lane) == (task.epoch, task.lane.lane)
                and other.lane.position < task.lane.position
                and other.id not in self.tasks_done
            ]
            holders = {holder for other in before for holder in self.ledger.holders(other.id)}
            assert holders == ({worker.index} if before else set())
        if task.kind is TaskKind.TRAINING and (self.plan.lanes or self.initialized):
            assert all(
                other.id in self.tasks_done
                for other in self.tasks.values()
                if other.kind is TaskKind.TRAINING and other.epoch < task.epoch
            ), "an epoch waits for the round of the one before"

    def push(self, worker: Worker, work: Work, calm: bool) -> None:
        """Send minibatch k, or the closing frame, to one partition that has not acknowledged it."""
        if work.task.kind is not TaskKind.TRAINING:
            worker.held.remove(work)
            self.complete(work)
            return
        partition = self.random.choice(sorted(work.waiting))
        if not calm and self.random.random() < 0.1:
            self.old_pushes.append((partition, work.reading, work.k))
            return  # The request is lost, or late.
        refused = self.deliver(partition, work.reading, work.k)
        if refused:
            worker.held.remove(work)
            self.give_up(work, refused)
            return
        if not calm and self.random.random() < 0.1:
            return  # The reply is lost.
        work.waiting.discard(partition)
        if work.waiting:
            return
        if work.k == len(work.reading.sizes):
            worker.held.remove(work)
            self.complete(work)
        else:
            work.k += 1
            work.waiting = set(range(len(self.partitions)))

    def give_up(self, work: Work, reason: str) -> None:
        """What a worker does whose push was refused."""
        if reason == "differs":
            differs = events.TaskDiffers(work.task.id, work.reading.attempt)
            for _ in range(self.random.choice([1, 1, 2])):
                self._note(self.ledger.handle(differs, self.now))
        self._note(self.ledger.handle(events.GrantsReturned((work.grant,)), self.now))

    def complete(self, work: Work) -> None:
        trains = work.task.kind is TaskKind.TRAINING
        done = events.TaskCompleted(
            work.task.id,
            (1,) * len(self.partitions),
            len(work.reading.sizes) if trains else 0,
            self.result(work.task),
        )
        for _ in range(self.random.choice([1, 1, 2])):
            self._note(self.ledger.handle(done, self.now))

    def deliver(self, partition: int, reading: Reading, k: int) -> str:
        """Let a partition have a push; return why it refused it, or nothing."""
        progress, task, sizes = self.partitions[partition], reading.task, reading.sizes
        closes, attempt = k == len(sizes), reading.attempt
        decision = progress.decide(task.id, k, attempt, reading.digest(k), closes)
        if decision.is_old:
            return "old"
        if not decision.in_order:
            return "out of order"
        if decision.differs:
            return "differs"
        if closes:
            if decision.apply.any():
                limited = task.max_minibatches == k
                progress.close(decision, task.id, task.num_records, sum(sizes), limited)
            for group in decision.apply.nonzero()[0]:
                self.applied[partition, int(group), task.id, k, attempt, CLOSING] += 1
            return ""
        progress.drop_repeat(decision)
        if decision.apply.any():
            digest = reading.digest(k + 1)
            progress.advance(decision, task.id, task.epoch, sizes[k], 1.0, digest)
            for group in decision.apply.nonzero()[0]:
                self.applied[partition, int(group), task.id, k, attempt, digest] += 1
        return ""

    # ------------------------------------------------------------------ proof

    def check(self) -> None:
        """Everything granted was applied exactly once by every group, and nothing else.

        Of an input function that varies: all minibatches of one reading, and what was applied of
        other attempts is counted as repeated.
        """
        assert isinstance(self.ended, JobDone), self.ended
        assert self.varies or not self.ledger.num_restarted
        training = [t for t in self.tasks.values() if t.kind is TaskKind.TRAINING and t.granted]
        for partition, progress in enumerate(self.partitions):
            for group in range(progress.num_groups):
                self.check_applied(partition, group, training)
            assert all(task.id in progress.closed for task in training)
            totals = progress.totals
            records, tasks = self.ledger.training_granted()
            assert tasks == len(training) == len(progress.closed)
            accounted = (
                totals.applied_records
                + totals.filtered_records
                + totals.beyond_limit_records
                - totals.added_records
            )
            assert (accounted == records).all()

    def check_applied(self, partition: int, group: int, training: list[Task]) -> None:
        attempts: dict[int, dict[int, list[int]]] = {task.id: {} for task in training}
        closed: dict[int, int] = {}
        for key, times in sorted(self.applied.items()):
            where, which, task, k, attempt, digest = key
            if (where, which) != (partition, group):
                continue
            assert times == 1
            if digest == CLOSING:
                assert task not in closed
                closed[task] = attempt
            else:
                attempts[task].setdefault(attempt, []).append(digest)
                assert len(attempts[task][attempt]) == k + 1, "in order"
        repeated = 0
        for task, of_task in attempts.items():
            last = of_task.pop(closed[task], [])
            assert tuple(last) in self.readings[task], "all of a reading, and of one"
            repeated += sum(self.num_records(task, digests) for digests in of_task.values())
        assert self.partitions[partition].totals.repeated_records[group] == repeated

    def num_records(self, task: int, digests: list[int]) -> int:
        """Of the first minibatches of a reading."""
        n = len(digests)
        return next(
            sum(sizes[:n])
            for all_of_it, sizes in self.readings[task].items()
            if list(all_of_it[:n]) == digests
        )
