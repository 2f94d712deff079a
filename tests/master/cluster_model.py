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

from elasticdl.data.shards import Shard
from elasticdl.master import ledger_events as events
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import Grant, JobDone, JobFailed, NoMoreTasks, TasksDefined
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, Task, TaskKind
from elasticdl.ps.progress import CLOSED, Progress


@dataclass
class Work:
    """A held task: the minibatch to push next, and per partition whether it was acknowledged."""

    task: Task
    grant: int
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

    After it: `applied[partition, group][task, k]` counts how often each minibatch was applied.
    """

    def __init__(self, plan: JobPlan, num_workers: int, num_partitions: int, seed: int) -> None:
        self.plan = plan
        self.random = random.Random(seed)
        self.now = 0.0
        self.ledger = Ledger(plan, self.now)
        self.partitions = [Progress(3) for _ in range(num_partitions)]
        self.applied: Counter[tuple[int, int, int, int]] = Counter()
        self.workers = [Worker(index, 1) for index in range(num_workers)]
        self.tasks: dict[int, Task] = {}
        self.old_pushes: list[tuple[int, Task, int]] = []
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
        kind = self.random.randrange(5)
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
        if isinstance(answer, Grant):
            worker.request += 1
            task = answer.task
            self.check_grant(worker, task)
            first = min(one.next(task.id) for one in self.partitions)
            start = 0 if first == CLOSED else first
            worker.held.append(Work(task, answer.grant, start, set(range(len(self.partitions)))))
        else:
            assert not isinstance(answer, NoMoreTasks), "the ledger ended without saying so"

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
            self.old_pushes.append((partition, work.task, work.k))
            return  # The request is lost, or late.
        self.deliver(partition, work.task, work.k)
        if not calm and self.random.random() < 0.1:
            return  # The reply is lost.
        work.waiting.discard(partition)
        if work.waiting:
            return
        if work.k == len(self.minibatch_sizes(work.task)):
            worker.held.remove(work)
            self.complete(work)
        else:
            work.k += 1
            work.waiting = set(range(len(self.partitions)))

    def complete(self, work: Work) -> None:
        trains = work.task.kind is TaskKind.TRAINING
        done = events.TaskCompleted(
            work.task.id,
            (1,) * len(self.partitions),
            len(self.minibatch_sizes(work.task)) if trains else 0,
            self.result(work.task),
        )
        for _ in range(self.random.choice([1, 1, 2])):
            self._note(self.ledger.handle(done, self.now))

    def deliver(self, partition: int, task: Task, k: int) -> None:
        progress, sizes = self.partitions[partition], self.minibatch_sizes(task)
        decision = progress.decide(task.id, k)
        if not decision.in_order:
            return
        if k == len(sizes):
            if decision.apply.any():
                limited = task.max_minibatches == k
                progress.close(decision, task.id, task.num_records, sum(sizes), limited)
            return
        progress.drop_repeat(decision)
        if decision.apply.any():
            progress.advance(decision, task.id, task.epoch, sizes[k], 1.0)
            for group in decision.apply.nonzero()[0]:
                self.applied[partition, int(group), task.id, k] += 1

    # ------------------------------------------------------------------ proof

    def check(self) -> None:
        """Everything granted was applied exactly once by every group, and nothing else."""
        assert isinstance(self.ended, JobDone), self.ended
        training = [t for t in self.tasks.values() if t.kind is TaskKind.TRAINING and t.granted]
        expected = {(t.id, k) for t in training for k in range(len(self.minibatch_sizes(t)))}
        for partition, progress in enumerate(self.partitions):
            for group in range(progress.num_groups):
                applied = {
                    (task, k): times
                    for (where, which, task, k), times in self.applied.items()
                    if (where, which) == (partition, group)
                }
                assert applied == dict.fromkeys(expected, 1)
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


def make_plan(
    shard_sizes: list[int],
    num_epochs: int,
    minibatch_size: int,
    records_per_task: int,
    max_steps: int | None,
    lanes: int = 0,
    validation: int = 0,
    evaluation: EvaluationSchedule | None = None,
) -> JobPlan:
    """A training job with its initialization and export."""
    return JobPlan(
        phases=(TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT),
        shards=tuple(Shard(f"shard-{i}", size) for i, size in enumerate(shard_sizes)),
        num_epochs=num_epochs,
        minibatch_size=minibatch_size,
        records_per_task=records_per_task,
        max_steps=max_steps,
        lease_s=30.0,
        lanes=lanes,
        validation_shards=(Shard("held-out", validation),) if validation else (),
        evaluation=evaluation or EvaluationSchedule(),
        best_path="best",
    )
