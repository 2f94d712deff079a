"""The cluster of `cluster_model`, whose partitions are lost and restored from checkpoints, too."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.master import ledger_events as events
from elasticdl.master.ledger_events import Grant, NoMoreTasks
from elasticdl.master.replays import Intervals
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.ps.progress import Progress
from tests.master.cluster_model import ClusterModel, Reading, Work, Worker

Applied = Counter[tuple[int, ...]]


@dataclass
class Part:
    """A partition's part of a checkpoint: its progress, and what its groups had applied."""

    incarnation: int
    progress: Progress
    applied: Applied


@dataclass
class Partition:
    """A partition as it is; while it is down, `is_up` is false and it answers nothing."""

    incarnation: int
    progress: Progress
    applied: Applied
    is_initialized: bool = False
    is_up: bool = True


class RestartModel(ClusterModel):
    """One job whose workers and partitions die; `run` plays it to its end.

    Checkpoints are taken partition by partition, at moments of their own, and committed later, or
    never: when a partition was lost meanwhile. The last one may turn out to be damaged when it is
    to be restored.
    """

    def __init__(self, plan: JobPlan, num_workers: int, num_partitions: int, seed: int) -> None:
        super().__init__(plan, num_workers, num_partitions, seed)
        self.servers = [Partition(1, Progress(3), Counter()) for _ in range(num_partitions)]
        self.partitions = [one.progress for one in self.servers]
        self.views: dict[tuple[int, int], tuple[int, ...]] = {}
        self.parts: dict[int, Part] = {}
        # Those that are not damaged, as far as is known, in order.
        self.standing: list[tuple[int, dict[int, Part]]] = []
        self.fallbacks = 0
        self.losses_at_the_export = 0
        self.number = 0
        self.replays = 0
        self.losses_of_partitions = 0
        self.exported: list[list[Progress]] = []

    # ---------------------------------------------------------------- checkpoints

    def snapshot_one(self) -> None:
        """Take the part of a partition that has none yet, or commit when all have."""
        waiting = [i for i in range(len(self.servers)) if i not in self.parts]
        if waiting:
            index = self.random.choice(waiting)
            server = self.servers[index]
            if server.is_up and server.is_initialized:
                self.parts[index] = Part(
                    server.incarnation,
                    copy.deepcopy(server.progress),
                    server.applied.copy(),
                )
            return
        parts, self.parts = self.parts, {}
        if any(
            not server.is_up or server.incarnation != parts[index].incarnation
            for index, server in enumerate(self.servers)
        ):
            return  # One was lost meanwhile: this one is given up.
        self.number += 1
        self.standing.append((self.number, parts))
        committed = events.CheckpointCommitted(self.number, closed_in(parts))
        for _ in range(self.random.choice([1, 1, 2])):
            self._note(self.ledger.handle(committed, self.now))

    @property
    def committed(self) -> dict[int, Part] | None:
        return self.standing[-1][1] if self.standing else None

    def fall_back(self) -> None:
        """The last checkpoint is damaged: one before it takes its place."""
        older = [one for one in self.standing[:-1] if self.ledger.can_go_back_to(one[0])]
        if not self.fallbacks:
            assert len(older) == max(0, min(len(self.standing), self.plan.keep_checkpoints) - 1)
        if not older:
            return
        number, parts = self.random.choice(older)
        self.standing = [one for one in self.standing if one[0] <= number]
        self.fallbacks += 1
        event = events.FellBack(number, closed_in(parts))
        self._note(self.ledger.handle(event, self.now))
        assert self.ledger.handle(event, self.now) == [], "twice has the effect of once"

    # ------------------------------------------------------------ lost partitions

    def lose_partition(self) -> None:
        index = self.random.randrange(len(self.servers))
        server = self.servers[index]
        server.is_up = False
        server.incarnation += 1
        self.losses_of_partitions += 1
        self._note(self.ledger.handle(events.PartitionLost(index), self.now))

    def restart_partition(self) -> None:
        for index, server in enumerate(self.servers):
            if server.is_up or self.random.random() < 0.5:
                continue
            server.is_up = True
            if self.random.random() < (0.7 if self.losses_at_the_export else 0.2):
                self.fall_back()
            closed = None
            server.progress, server.applied = Progress(3), Counter()
            server.is_initialized = self.committed is not None
            if self.committed is not None:
                part = self.committed[index]
                server.progress = copy.deepcopy(part.progress)
                server.applied = part.applied.copy()
                closed = _closed(server.progress)
            self.partitions[index] = server.progress
            started = events.PartitionStarted(index, server.incarnation, closed)
            actions = self.ledger.handle(started, self.now)
            self.replays += sum(isinstance(one, events.Requeued) for one in actions)
            self._note(actions)
            assert self.ledger.handle(started, self.now) == [], "twice has the effect of once"

    def disturb(self) -> None:
        if self.random.random() < 0.25:
            self.lose_partition()
        else:
            super().disturb()

    # -------------------------------------------------------------------- workers

    def view(self, worker: Worker) -> tuple[int, ...]:
        """The lives of the partitions that a worker is connected to."""
        key = (worker.index, worker.incarnation)
        current = tuple(server.incarnation for server in self.servers)
        return self.views.setdefault(key, current)

    def reconnect(self, worker: Worker) -> None:
        """What a worker does when a partition has moved: give all back, and ask for the cluster."""
        grants = tuple(work.grant for work in worker.held)
        worker.held.clear()
        self._note(self.ledger.handle(events.GrantsReturned(grants), self.now))
        self.views.pop((worker.index, worker.incarnation), None)

    def progress(self, worker: Worker, calm: bool) -> None:
        if self.random.random() < 0.3 or self.ledger.checkpoint_wanted:
            self.snapshot_one()
        if calm or self.random.random() < 0.3:
            self.restart_partition()
        if any(not server.is_up for server in self.servers) and self.random.random() < 0.5:
            return
        super().progress(worker, calm)

    def lease(self, worker: Worker, calm: bool) -> None:
        request = events.LeaseRequested(worker.index, worker.incarnation, worker.request)
        *before, answer = self.ledger.handle(request, self.now)
        self._note(before)
        if not calm and self.random.random() < 0.2:
            return
        worker.request += 1
        if not isinstance(answer, Grant):
            assert not isinstance(answer, NoMoreTasks), "the ledger ended without saying so"
            return
        task = answer.task
        self.check_grant(worker, task)
        if task.kind is not TaskKind.INITIALIZE and not self.reaches_all(worker):
            worker.held.append(Work(task, answer.grant, Reading(task, 0, [], []), 0))
            self.reconnect(worker)
            return
        worker.held.append(self.begin(task, answer.grant))

    def reaches_all(self, worker: Worker) -> bool:
        view = self.view(worker)
        return all(
            server.is_up and server.is_initialized and server.incarnation == view[index]
            for index, server in enumerate(self.servers)
        )

    def push(self, worker: Worker, work: Work, calm: bool) -> None:
        view = self.view(worker)
        if work.task.kind is TaskKind.INITIALIZE:
            for index, server in enumerate(self.servers):
                if not server.is_up or server.incarnation != view[index]:
                    self.reconnect(worker)
                    return
                server.is_initialized = True
                if not calm and self.random.random() < 0.1:
                    return
        elif work.task.kind is not TaskKind.TRAINING and not self.reaches_all(worker):
            if work.task.kind is not TaskKind.SUMMARIZE or self.random.random() < 0.5:
                self.reconnect(worker)
                return
        elif work.task.kind is TaskKind.TRAINING:
            waiting = sorted(work.waiting)
            if any(self.servers[i].incarnation != view[i] for i in waiting):
                self.reconnect(worker)
                return
            if not all(self.servers[i].is_up for i in waiting):
                return
        elif (
            work.task.kind is TaskKind.EXPORT
            and self.losses_at_the_export < 2
            and self.random.random() < 0.3
        ):
            self.losses_at_the_export += 1
            self.lose_partition()
            return
        self.current_view = view
        if work.task.kind is TaskKind.EXPORT and work.task.payload == "{}":
            self.exported.append(copy.deepcopy(self.partitions))
        super().push(worker, work, calm)

    def complete(self, work: Work) -> None:
        trains = work.task.kind is TaskKind.TRAINING
        done = events.TaskCompleted(
            work.task.id,
            self.current_view,
            len(work.reading.sizes) if trains else 0,
            self.result(work.task),
        )
        for _ in range(self.random.choice([1, 1, 2])):
            self._note(self.ledger.handle(done, self.now))

    def deliver(self, partition: int, reading: Reading, k: int) -> str:
        server = self.servers[partition]
        if not server.is_up:
            return ""
        assert server.is_initialized, "nothing is trained before there are initial values"
        before, self.applied = self.applied, Counter()
        refused = super().deliver(partition, reading, k)
        for (_, *rest), times in self.applied.items():
            server.applied[tuple(rest)] += times
        self.applied = before
        return refused

    def check(self) -> None:
        self.applied = Counter(
            {
                (index, *key): times
                for index, server in enumerate(self.servers)
                for key, times in server.applied.items()
            }
        )
        super().check()
        assert self.committed is not None
        training = [t for t in self.tasks.values() if t.kind is TaskKind.TRAINING and t.granted]
        assert all(
            task.id in progress.closed
            for state in self.exported[-1:]
            for progress in state
            for task in training
        ), "what was exported last has everything"
        assert all(
            task.id in part.progress.closed for part in self.committed.values() for task in training
        ), "the last checkpoint has everything"


def closed_in(parts: dict[int, Part]) -> Intervals:
    """The tasks that are closed in all groups of a checkpoint."""
    return common([_closed(part.progress) for part in parts.values()])


def _closed(progress: Progress) -> Intervals:
    return tuple(progress.closed.intervals)


def common(sets: Sequence[Intervals]) -> Intervals:
    """Return what is in all of some sets, of which there is at least one."""
    found = list(sets[0])
    for other in sets[1:]:
        found = [
            (max(start, first), min(end, last))
            for start, end in found
            for first, last in other
            if max(start, first) < min(end, last)
        ]
    return tuple(found)
