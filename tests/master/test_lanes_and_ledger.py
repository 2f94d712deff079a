"""Sync mode as a whole, without arithmetic: the real ledger, and the real lanes of two partitions.

Workers join, die, fall silent and go on all the same (zombies), give back, and stop early.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from elasticdl.data.shards import Shard
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Evaluated,
    Grant,
    GrantsReturned,
    LeaseRequested,
    LeasesHeld,
    PartitionStarted,
    TaskCompleted,
    Tick,
    WorkerLost,
)
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, Task, TaskKind
from elasticdl.ps.lanes import Answer, Closing, Lanes, Place

PARTITIONS = 2
LONGEST_IDLE = 400


@dataclass
class Holding:
    """A task somebody works on: the minibatch that is next, and the partitions it is pushed to."""

    task: Task
    grant: int
    k: int | None = None
    pushing: list[int] = field(default_factory=list)
    closing: Closing | None = None
    is_done: bool = False


@dataclass
class Member:
    incarnation: int
    request: int = 0
    held: list[Holding] = field(default_factory=list)


class SyncCluster:
    """A job in sync mode; `run` plays it to its end, in an order fixed by a seed."""

    def __init__(self, seed: int, stops: bool) -> None:
        self.random = chance = random.Random(seed)
        size = chance.randint(1, 9)
        self.stops = stops
        self.plan = JobPlan(
            phases=(TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT),
            shards=tuple(Shard(f"s{i}", chance.randint(1, 200)) for i in range(3)),
            validation_shards=(Shard("held-out", 20),) if stops or chance.random() < 0.6 else (),
            evaluation=EvaluationSchedule(chance.randint(0, 1), chance.choice([0, 5, 9]), 0.0),
            lanes=chance.randint(1, 7),
            num_epochs=chance.randint(1, 3),
            minibatch_size=size,
            records_per_task=size * chance.randint(1, 6),
            max_steps=chance.choice([None, None, chance.randint(1, 40)]),
            seed=seed,
        )
        self.ledger = Ledger(self.plan)
        self.ledger.handle(PartitionStarted(0, 1), 0.0)
        self.lanes = [Lanes(self.plan.max_steps) for _ in range(PARTITIONS)]
        self.buffers: list[dict[int, tuple[int, int]]] = [{} for _ in self.lanes]
        self.applied: list[list[tuple[int, tuple[int, int]]]] = [[] for _ in self.lanes]
        self.members: dict[int, Member] = {}
        self.zombies: list[Holding] = []
        self.incarnations = 0
        self.evaluations = 0
        for index in range(chance.randint(1, 6)):
            self.join(index)

    def join(self, index: int) -> None:
        self.incarnations += 1
        self.members[index] = Member(self.incarnations)

    def num_minibatches(self, task: Task) -> int:
        """What the input function makes of a task; some it empties."""
        full = -(-task.num_records // self.plan.minibatch_size)
        chance = random.Random(f"{task.epoch}/{task.shard}/{task.start}")
        return chance.choice([full, full, full, 0, chance.randint(0, full)])

    def run(self, disturbances: int) -> None:
        now, idle = 0.0, 0
        for _ in range(20_000):
            if self.ledger.finished:
                return
            now += 0.1
            progressed = False
            if disturbances and self.random.random() < 0.08:
                disturbances -= 1
                progressed = self.disturb(now)
            for index in self.random.sample(list(self.members), len(self.members)):
                progressed |= self.work(index, now)
            for zombie in list(self.zombies):
                self.haunt(zombie, now)
            self.close_steps()
            self.ledger.handle(Tick(), now)
            idle = 0 if progressed else idle + 1
            assert idle < LONGEST_IDLE, (
                f"nothing moves: step {self.lanes[0].step} awaits {self.lanes[0].awaited}"
            )
        raise AssertionError("the job did not end")

    def disturb(self, now: float) -> bool:
        index, kind = self.random.randrange(7), self.random.random()
        if kind < 0.35 and index not in self.members:
            self.join(index)
        elif kind < 0.7 and index in self.members and len(self.members) > 1:
            lost = self.members.pop(index)
            self.ledger.handle(WorkerLost(index, lost.incarnation), now)
            if self.random.random() < 0.5:
                self.zombies += [one for one in lost.held if one.task.lane is not None]
        elif index in self.members and self.members[index].held:
            self.give_back(self.members[index], now)
        else:
            return False
        return True

    def give_back(self, member: Member, now: float) -> None:
        one = self.random.choice(member.held)
        lane = one.task.lane
        returned = [
            other
            for other in member.held
            if other is one
            or (
                lane is not None
                and other.task.lane is not None
                and other.task.lane.lane == lane.lane
                and other.task.lane.position >= lane.position
            )
        ]
        self.ledger.handle(GrantsReturned((one.grant,)), now)
        for other in returned:
            member.held.remove(other)
        self.ledger.handle(GrantsReturned(tuple(other.grant for other in returned)), now)

    # ------------------------------------------------------------------ at work

    def work(self, index: int, now: float) -> bool:
        member, progressed = self.members[index], False
        grants = tuple(one.grant for one in member.held)
        self.ledger.handle(LeasesHeld(index, member.incarnation, grants), now)
        if self.random.random() < 0.7:
            request = LeaseRequested(index, member.incarnation, member.request)
            *_, answer = self.ledger.handle(request, now)
            member.request += 1
            if isinstance(answer, Grant):
                member.held.append(Holding(answer.task, answer.grant))
                progressed = True
        others = [one for one in member.held if one.task.lane is None]
        if others and self.random.random() < 0.3:
            member.held.remove(others[0])
            self.complete(others[0], now)
            progressed = True
        busy: set[int] = set()
        for one in list(member.held):
            if one.task.lane is None or one.task.lane.lane in busy:
                continue
            busy.add(one.task.lane.lane)
            if self.random.random() < 0.8:
                progressed |= self.move(one)
            if one.is_done:
                member.held.remove(one)
                self.complete(one, now)
                progressed = True
        return progressed

    def haunt(self, zombie: Holding, now: float) -> None:
        if self.random.random() < 0.5:
            self.move(zombie)
        if zombie.is_done:
            self.complete(zombie, now)
        if zombie.is_done or self.random.random() < 0.05:
            self.zombies.remove(zombie)

    def complete(self, one: Holding, now: float) -> None:
        task, result = one.task, ""
        if task.kind is TaskKind.INITIALIZE and self.stops:
            result = json.dumps({"user_callbacks": True})
        if task.kind is TaskKind.SUMMARIZE:
            result = json.dumps({"metrics": {}, "logs": {}})
        if task.kind is TaskKind.CALLBACKS:
            result = json.dumps({"stop": self.random.random() < 0.4})
        closing = one.closing or Closing(0, 0, False)
        event = TaskCompleted(task.id, (1,), closing.num_minibatches, result, closing.limited)
        actions = self.ledger.handle(event, now)
        self.evaluations += sum(isinstance(action, Evaluated) for action in actions)

    def move(self, one: Holding) -> bool:
        """Make one move with a task; False where it has to wait."""
        place = self.place(one.task)
        if one.k is None:
            verdicts = [lanes.progress(place) for lanes in self.lanes]
            closed = [verdict.closing for verdict in verdicts if verdict.closing is not None]
            if closed:
                one.closing, one.k = closed[0], 0
            else:
                one.k = min(verdict.next for verdict in verdicts)
            return True
        count = self.num_minibatches(one.task)
        if one.closing is None and one.k >= count:
            one.closing = Closing(count, one.task.num_records, False)
        if one.closing is not None:
            return self.close(one, place)
        if one.pushing:
            return self.push(one, place)
        return self.pull(one, place)

    def pull(self, one: Holding, place: Place) -> bool:
        assert one.k is not None
        verdicts = [lanes.pull(place, one.k) for lanes in self.lanes]
        self.close_steps()
        answers = {verdict.answer for verdict in verdicts}
        if Answer.AHEAD in answers:
            one.k = None
        elif Answer.WAIT in answers:
            return False
        elif Answer.PAST in answers:
            past = [verdict for verdict in verdicts if verdict.answer is Answer.PAST]
            closed = [verdict.closing for verdict in past if verdict.closing is not None]
            if closed:
                one.closing = closed[0]
            else:
                one.k = max(verdict.next for verdict in past)
        elif Answer.FINISHED in answers:
            one.closing = Closing(one.k, 0, True)
        else:
            assert self.lanes[0].step == self.lanes[1].step, "one version is served"
            one.pushing = self.random.sample(range(PARTITIONS), PARTITIONS)
        return True

    def push(self, one: Holding, place: Place) -> bool:
        assert one.k is not None
        index = one.pushing.pop()
        verdict = self.lanes[index].decide_push(place, one.k)
        if verdict.answer is Answer.GO:
            self.lanes[index].take(place)
            self.buffers[index][place.lane] = (one.task.id, one.k)
        else:
            assert verdict.answer is Answer.PAST
        if not one.pushing:
            one.k += 1
        return True

    def close(self, one: Holding, place: Place) -> bool:
        assert one.closing is not None
        verdicts = [lanes.close(place, one.closing) for lanes in self.lanes]
        self.close_steps()
        one.is_done = all(v.answer in (Answer.GO, Answer.PAST) for v in verdicts)
        assert all(verdict.answer is not Answer.AHEAD for verdict in verdicts)
        return one.is_done

    def close_steps(self) -> None:
        for lanes, buffer, applied in zip(self.lanes, self.buffers, self.applied, strict=True):
            while lanes.is_complete:
                step = lanes.step
                applied += [(step, buffer[lane]) for lane in lanes.close_step()]
        assert abs(self.lanes[0].step - self.lanes[1].step) <= 1

    def place(self, task: Task) -> Place:
        lane: Any = task.lane
        return Place(task.epoch, lane.lane, lane.position, lane.num_lanes, lane.last)


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("first", range(0, 400, 100))
def test_a_sync_job_ends_and_every_partition_applies_each_minibatch_in_the_same_step(first, stops):
    for seed in range(first, first + 100):
        cluster = SyncCluster(seed, stops)
        cluster.run(cluster.random.randint(0, 60))
        one, other = (sorted(applied) for applied in cluster.applied)
        assert one == other, seed
        minibatches = [minibatch for _, minibatch in one]
        assert len(minibatches) == len(set(minibatches)), seed
        if cluster.plan.max_steps is not None:
            assert cluster.lanes[0].step <= cluster.plan.max_steps, seed
        else:
            assert cluster.lanes[0].step == cluster.ledger.steps_done, seed
        if cluster.plan.validation_shards:
            assert cluster.evaluations > 0, seed
