"""Partitions, workers and a network in one thread, to run sync mode's protocol under any schedule.

The partitions' decisions are the real ones (`Lanes`, `NormExchange`). Messages arrive in any order,
twice, or their replies get lost; workers die, or go on after their lease was given to another.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elasticdl.ps.lanes import Answer, Closing, Lanes, Place
from elasticdl.ps.norm_exchange import Known, NormExchange
from elasticdl.ps.progress import CLOSED

Minibatch = tuple[int, int, int, int]  # epoch, lane, position, k
NORMS_WANTED = "norms wanted"


@dataclass
class Schedule:
    """How bad the world is: probabilities per message or per turn."""

    lost: float = 0.1
    repeated: float = 0.1
    dies: float = 0.02
    loses_lease: float = 0.02


class ModelPartition:
    """A partition whose "parameters" are the steps it has closed."""

    def __init__(self, index: int, max_steps: int | None, exchanges_norms: bool) -> None:
        self.index = index
        self.lanes = Lanes(max_steps)
        self.norms = NormExchange() if exchanges_norms else None
        self.buffers: dict[int, Minibatch] = {}
        self.steps: list[tuple[Minibatch, ...]] = []
        self.totals: list[float] = []
        self.closed: list[tuple[int, int, int]] = []

    def handle(self, message: tuple[Any, ...]) -> Any:
        kind, *arguments = message
        answer = getattr(self, kind)(*arguments)
        while self.lanes.is_complete and (self.norms is None or not self.norms.is_waiting):
            if self.norms is None:
                self._close_step()
            else:
                self.norms.offer(self.lanes.step, np.array([self.own_sum()]))
        return answer

    def own_sum(self) -> float:
        return float((self.lanes.step + 1) * (self.index + 1))

    def _close_step(self) -> None:
        lanes = self.lanes.close_step()
        self.steps.append(tuple(self.buffers.pop(lane) for lane in lanes))
        assert not self.buffers, "a buffered minibatch was left out of its step"

    def _or_norms(self, verdict: Any) -> Any:
        waits = verdict.answer is Answer.WAIT and self.norms is not None
        return (NORMS_WANTED, self.lanes.step) if waits and self.norms.is_waiting else verdict

    def progress(self, place: Place) -> Any:
        return self.lanes.progress(place)

    def pull(self, place: Place, k: int) -> Any:
        verdict = self.lanes.pull(place, k)
        if verdict.answer is Answer.GO:
            return (verdict, self.lanes.step)
        return self._or_norms(verdict)

    def push(self, place: Place, k: int, version: int) -> Any:
        verdict = self.lanes.decide_push(place, k)
        if verdict.answer is Answer.GO:
            assert version == self.lanes.step, "computed from another version than its step's"
            self.lanes.take(place)
            self.buffers[place.lane] = (place.epoch, place.lane, place.position, k)
        return verdict

    def close(self, place: Place, closing: Closing) -> Any:
        verdict = self.lanes.close(place, closing)
        if verdict.answer is Answer.GO:
            self.closed.append((place.epoch, place.lane, place.position))
        return self._or_norms(verdict)

    def get_norms(self, step: int) -> Any:
        assert self.norms is not None
        return self.norms.ask(step)

    def set_norms(self, step: int, totals: float) -> Any:
        assert self.norms is not None
        if self.norms.accepts(step, np.array([totals])):
            self._close_step()
            self.norms.close()
            self.totals.append(totals)


@dataclass
class ModelWorker:
    """Runs one lane's tasks as a worker does; a generator that yields messages and gets replies."""

    name: int
    lane: int
    script: Generator[Any, Any, None]
    outstanding: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    replies: dict[int, Any] = field(default_factory=dict)
    started: bool = False


class Cluster:
    """A whole job: `epochs[e][lane][position]` is a task's number of minibatches."""

    def __init__(
        self,
        epochs: list[list[list[int]]],
        num_partitions: int,
        num_workers: int,
        seed: int,
        max_steps: int | None = None,
        exchanges_norms: bool = False,
        schedule: Schedule | None = None,
    ) -> None:
        self.epochs = epochs
        self.max_steps = max_steps
        self.random = random.Random(seed)
        self.schedule = schedule or Schedule()
        self.num_workers = num_workers
        self.partitions = [
            ModelPartition(index, max_steps, exchanges_norms) for index in range(num_partitions)
        ]
        self.epoch = 0
        self.done: set[tuple[int, int, int]] = set()
        self.limited: dict[tuple[int, int, int], int] = {}
        self.workers: list[ModelWorker] = []
        self.holder: dict[int, ModelWorker] = {}
        self.late: list[tuple[int, tuple[Any, ...]]] = []
        self.versions: dict[Minibatch, set[tuple[int, int]]] = {}
        self.turns = 0

    # ---------------------------------------------------------------------- worker

    def _work(self, epoch: int, lane: int) -> Generator[Any, Any, None]:
        tasks = self.epochs[epoch][lane]
        for position, num_minibatches in enumerate(tasks):
            if (epoch, lane, position) in self.done:
                continue
            place = Place(
                epoch, lane, position, len(self.epochs[epoch]), position == len(tasks) - 1
            )
            yield from self._train(place, num_minibatches)

    def _train(self, place: Place, num_minibatches: int) -> Generator[Any, Any, None]:
        everywhere = range(len(self.partitions))
        answers = yield dict.fromkeys(everywhere, ("progress", place))
        closing = next((one.closing for one in answers.values() if one.closing), None)
        wanted = min(one.next for one in answers.values())
        while closing is None:
            if wanted >= num_minibatches:
                closing = Closing(num_minibatches, num_minibatches, limited=False)
                break
            answers = yield dict.fromkeys(everywhere, ("pull", place, wanted))
            verdicts = {p: one[0] if isinstance(one, tuple) else one for p, one in answers.items()}
            past = [one for one in verdicts.values() if one.answer is Answer.PAST]
            if past:
                assert all(
                    one.answer in (Answer.PAST, Answer.GO, Answer.FINISHED)
                    for one in verdicts.values()
                )
                closing = next((one.closing for one in past if one.closing), None)
                before, wanted = wanted, max(one.next for one in past)
                assert wanted > before
                if wanted == CLOSED and closing is None:
                    return  # Of an epoch that is over: this worker is long forgotten.
                continue
            if any(one.answer is Answer.FINISHED for one in verdicts.values()):
                assert all(one.answer is Answer.FINISHED for one in verdicts.values())
                closing = Closing(wanted, wanted, limited=True)
                break
            assert all(one.answer is Answer.GO for one in verdicts.values())
            minibatch = (place.epoch, place.lane, place.position, wanted)
            seen = self.versions.setdefault(minibatch, set())
            seen.update((p, answers[p][1]) for p in everywhere)
            answers = yield {p: ("push", place, wanted, answers[p][1]) for p in everywhere}
            assert all(one.answer in (Answer.GO, Answer.PAST) for one in answers.values())
            wanted += 1
        answers = yield dict.fromkeys(everywhere, ("close", place, closing))
        assert all(one.answer in (Answer.GO, Answer.PAST) for one in answers.values())
        where = (place.epoch, place.lane, place.position)
        if closing.limited:
            assert (
                self.limited.setdefault(where, closing.num_minibatches) == closing.num_minibatches
            )
        self.done.add(where)

    # --------------------------------------------------------------------- network

    def _send(self, worker: ModelWorker, replies: Any) -> None:
        """Let a worker go on until it waits for replies again."""
        try:
            worker.outstanding = dict(worker.script.send(replies))
            worker.replies = {}
        except StopIteration:
            self._forget(worker)

    def _forget(self, worker: ModelWorker) -> None:
        self.workers.remove(worker)
        if self.holder.get(worker.lane) is worker:
            del self.holder[worker.lane]

    def _deliver(self, worker: ModelWorker) -> None:
        """Bring one message of a worker to its partition, and perhaps the reply back."""
        partition = self.random.choice(sorted(worker.outstanding))
        message = worker.outstanding[partition]
        answer = self.partitions[partition].handle(message)
        self.check_steps()
        if self.random.random() < self.schedule.repeated:
            self.late.append((partition, message))
        if self.random.random() < self.schedule.lost:
            return
        if isinstance(answer, tuple) and answer[0] == NORMS_WANTED:
            self._exchange(answer[1])
            return
        if getattr(answer, "answer", None) is Answer.WAIT:
            return
        del worker.outstanding[partition]
        worker.replies[partition] = answer
        if not worker.outstanding:
            self._send(worker, worker.replies)

    def _exchange(self, step: int) -> None:
        """Ask all for their sums of a step and tell all the totals; it may stop half way."""
        total = 0.0
        for partition in self.partitions:
            known, sums = partition.handle(("get_norms", step))
            if known is not Known.SUMS:
                return
            total += float(sums[0])
        targets = list(self.partitions)
        self.random.shuffle(targets)
        for partition in targets:
            if self.random.random() < self.schedule.lost:
                return
            partition.handle(("set_norms", step, total))
            self.check_steps()
            if self.random.random() < self.schedule.repeated:
                self.late.append((partition.index, ("set_norms", step, total)))

    # ------------------------------------------------------------------------- job

    def _is_over(self) -> bool:
        if self.epoch >= len(self.epochs):
            return True
        finished = all(one.lanes.is_finished for one in self.partitions)
        held = any(True for _ in self.workers)
        return finished and not held

    def _grant(self) -> None:
        tasks = {
            (self.epoch, lane, position)
            for lane, one in enumerate(self.epochs[self.epoch])
            for position in range(len(one))
        }
        if tasks <= self.done:
            self.epoch += 1
            return
        if self.max_steps is not None and self.limited:
            return  # max_steps was met: nothing is granted any more.
        open_lanes = sorted({lane for _, lane, _ in tasks - self.done} - set(self.holder))
        share = -(-len(self.epochs[self.epoch]) // self.num_workers)
        counts = dict.fromkeys(range(self.num_workers), 0)
        for worker in self.holder.values():
            counts[worker.name] += 1
        free = [name for name, count in counts.items() if count < share]
        if open_lanes and free:
            lane, name = self.random.choice(open_lanes), self.random.choice(free)
            worker = ModelWorker(name, lane, self._work(self.epoch, lane))
            self.workers.append(worker)
            self.holder[lane] = worker

    def run(self, max_turns: int = 200_000) -> None:
        """Run the job to its end."""
        while not self._is_over():
            self.turns += 1
            assert self.turns < max_turns, "no progress"
            self._grant()
            if self.late and self.random.random() < 0.1:
                partition, message = self.late.pop(self.random.randrange(len(self.late)))
                self.partitions[partition].handle(message)
                self.check_steps()
            if not self.workers:
                continue
            worker = self.random.choice(self.workers)
            if self.random.random() < self.schedule.dies:
                self._forget(worker)
            elif self.random.random() < self.schedule.loses_lease:
                if self.holder.get(worker.lane) is worker:
                    del self.holder[worker.lane]
            elif worker.outstanding:
                self._deliver(worker)
            elif not worker.started:
                worker.started = True
                self._send(worker, None)

    def check_steps(self) -> None:
        """Partitions are never more than one step apart."""
        steps = [one.lanes.step for one in self.partitions]
        assert max(steps) - min(steps) <= 1, steps

    def expected_steps(self) -> list[tuple[Minibatch, ...]]:
        """What every partition must have closed: step j of an epoch is minibatch j of each lane."""
        steps: list[tuple[Minibatch, ...]] = []
        for epoch, lanes in enumerate(self.epochs):
            sequences = [
                [
                    (epoch, lane, position, k)
                    for position, count in enumerate(tasks)
                    for k in range(count)
                ]
                for lane, tasks in enumerate(lanes)
            ]
            for j in range(max(map(len, sequences))):
                steps.append(tuple(one[j] for one in sequences if j < len(one)))
        return steps[: self.max_steps]
