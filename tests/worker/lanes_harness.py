"""Real partitions and the worker's real lanes, with a small model in NumPy and workers that die.

A worker's death is a `Killed` raised out of one of its calls, before or after the partition has
seen it: its lane's thread ends there and tells nobody, as a process does that is killed.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import ModelLayout, ParameterClient, TaskDiffers
from elasticdl.ps.lane_client import LaneClient
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.pulling import Lookup, PendingPull, Pulled
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.rpc import DirectTransport, Frame, Placement, Service
from elasticdl.worker.digests import minibatch_digest
from elasticdl.worker.lane import Connection, Lane
from elasticdl.worker.leases import HeldTask
from elasticdl.worker.pipeline import Minibatch, TaskEnd
from elasticdl.worker.step_results import TrainResult
from elasticdl.worker.stream import Prepared

DESCRIPTOR = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
INPUTS, DIM, NUM_IDS = 5, 3, 12
DEADLINE_S = 60.0


class Killed(BaseException):
    """The worker is gone."""


@dataclass(frozen=True)
class Batch:
    """Records of one minibatch: a number vector, an id and a target each."""

    numbers: np.ndarray
    ids: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        return Batch(
            np.concatenate([one.numbers for one in batches]),
            np.concatenate([one.ids for one in batches]),
            np.concatenate([one.targets for one in batches]),
        )


def make_batches(rng: np.random.Generator, count: int, size: int = 4) -> list[Batch]:
    """Minibatches; the last is smaller."""
    sizes = [size] * (count - 1) + [max(1, size - 1)]
    return [
        Batch(
            rng.normal(size=(n, INPUTS)).astype(np.float32),
            rng.integers(0, NUM_IDS, n),
            rng.normal(size=n).astype(np.float32),
        )
        for n in sizes
    ]


def gradients(
    batch: Batch, kernel: np.ndarray, rows: np.ndarray, row_of: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Mean loss, its gradients by kernel and rows, and the change of a running mean of the numbers.

    loss = mean(0.5 * (rows[id] . (numbers @ kernel) - target)**2)
    """
    hidden = batch.numbers @ kernel
    own = rows[row_of]
    error = (hidden * own).sum(axis=1) - batch.targets
    scaled = (error / len(batch))[:, None]
    of_kernel = batch.numbers.T @ (scaled * own)
    of_rows = np.zeros_like(rows)
    np.add.at(of_rows, row_of, scaled * hidden)
    return float((0.5 * error**2).mean()), of_kernel, of_rows, batch.numbers.mean(axis=0)


@dataclass
class Task:
    """A task of a lane: its minibatches."""

    message: master_pb2.Task
    batches: list[Batch]


@dataclass
class Ledger:
    """Which tasks are done, and what was told; in place of `Leases` and of the master."""

    done: dict[int, tuple[int, bool]] = field(default_factory=dict)
    given_back: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def complete(
        self, held: HeldTask, num_minibatches: int, incarnations: Any, limited: bool
    ) -> None:
        with self.changed:
            self.done[held.task.id] = (num_minibatches, limited)
            self.changed.notify_all()

    def give_back(self, grants: Sequence[int]) -> None:
        with self.changed:
            self.given_back += grants

    def begin_anew(self, task: int, attempt: int) -> None:
        with self.changed:
            if self.attempts[task] == attempt:
                self.attempts[task] += 1

    def fail(self, held: HeldTask, message: str, traceback: str = "", fatal: bool = False) -> None:
        with self.changed:
            self.failures.append(message)
            self.changed.notify_all()


class ListedStream:
    """Hands out minibatches that are in memory.

    Args:
      read: what the input function makes of a task's minibatches, each time it is read.
    """

    def __init__(
        self,
        tasks: dict[int, Task],
        client: ParameterClient,
        read: Callable[[list[Batch]], list[Batch]] = list,
    ) -> None:
        self._tasks = tasks
        self._client = client
        self._read = read
        self._items: deque[Prepared | TaskEnd] = deque()

    def put(self, task: int, records: Any, first: int, most: int | None) -> None:
        num_records, digest = 0, 0
        batches = self._read(self._tasks[task].batches)
        for k, batch in enumerate(batches):
            before, digest = digest, minibatch_digest(batch.numbers, len(batch), digest)
            if k >= first:
                minibatch = Minibatch(
                    task,
                    k,
                    batch,
                    None,
                    (batch.ids,),
                    len(batch),
                    num_records_before=num_records,
                    digest_before=before,
                    digest_after=digest,
                )
                lookup = self._client.prepare([batch.ids])
                self._items.append(Prepared(minibatch, lookup, PendingPull(lambda: None)))
            num_records += len(batch)
        self._items.append(TaskEnd(task, len(batches), num_records, digest=digest))

    def next(self) -> Prepared | TaskEnd:
        return self._items.popleft()

    def close(self) -> None:
        pass


class DyingTransport:
    """Calls a service of this process, and may be killed before or after."""

    def __init__(self, inner: DirectTransport, rng: random.Random, dies: float) -> None:
        self._inner = inner
        self._rng = rng
        self._dies = dies

    def _perhaps_die(self) -> None:
        if self._rng.random() < self._dies:
            raise Killed

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        self._perhaps_die()
        reply = self._inner.call(path, request, timeout_s, placement)
        self._perhaps_die()
        return reply

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ):
        self._perhaps_die()
        future = self._inner.start(path, request, timeout_s, placement)
        self._perhaps_die()
        return future

    def close(self) -> None:
        pass


class Job:
    """Sync training of the small model, with one lane's thread for each lane.

    Args:
      epochs: `epochs[e][lane][position]` is a task's minibatches.
      optimizer: what the partitions apply.
      dies: probability that a worker is killed at a call.
      rates: computes a block of the optimizer's schedule, where it has one.
      read: what the input function makes of a task's minibatches, each time it is read.
    """

    def __init__(
        self,
        epochs: list[list[list[list[Batch]]]],
        optimizer: OptimizerConfig,
        num_partitions: int,
        max_steps: int = 0,
        dies: float = 0.0,
        seed: int = 0,
        nan_at: tuple[int, int] | None = None,
        rates: Callable[[int], np.ndarray] | None = None,
        read: Callable[[list[Batch]], list[Batch]] = list,
    ) -> None:
        self.ledger = Ledger()
        self._read = read
        self._grants = itertools.count(1)
        self.nan_at = nan_at
        self._rates = rates
        self._dies = dies
        self._rng = random.Random(seed)
        self._computing = threading.Lock()
        self.num_deaths = 0
        routing = RoutingTable.initial(64, num_partitions)
        self.partitions = [
            Partition(index, 1, longest_wait_s=0.05, most_waiting=2)
            for index in range(num_partitions)
        ]
        self._cluster = master_pb2.Cluster(
            routing=ps_pb2.Routing(
                version=routing.version, partition_of_group=routing.partition_of_group
            ),
            partitions=[
                master_pb2.Partition(index=index, incarnation=1) for index in range(num_partitions)
            ],
        )
        uniform = ps_pb2.RowInitializer(kind="uniform", seed=5, a=-1.0, b=1.0)
        self._layout = ModelLayout(
            ps_pb2.ModelDefinition(
                tables=[ps_pb2.TableDefinition(name="rows", dim=DIM, initializer=uniform)],
                variables=[
                    ps_pb2.VariableDefinition(name="kernel", shape=[INPUTS, DIM], trainable=True),
                    ps_pb2.VariableDefinition(name="mean", shape=[INPUTS], trainable=False),
                ],
                optimizer=optimizer.to_json(),
                synchronous=ps_pb2.Synchronous(max_steps=max_steps),
            )
        )
        self.kernel = np.linspace(-1, 1, INPUTS * DIM, dtype=np.float32).reshape(INPUTS, DIM)
        self.client = self._connect(dies=0.0)
        self.client.initialize(np.concatenate([self.kernel.ravel(), np.zeros(INPUTS, np.float32)]))
        self._tasks: dict[int, Task] = {}
        self._epochs = [self._make_tasks(epoch, lanes) for epoch, lanes in enumerate(epochs)]

    def _make_tasks(self, epoch: int, lanes: list[list[list[Batch]]]) -> list[list[Task]]:
        made = []
        for lane, tasks in enumerate(lanes):
            made.append([])
            for position, batches in enumerate(tasks):
                message = master_pb2.Task(
                    id=len(self._tasks),
                    kind=master_pb2.TaskKind.TRAINING,
                    epoch=epoch,
                    end=sum(map(len, batches)),
                    lane=ps_pb2.LanePosition(
                        epoch=epoch,
                        lane=lane,
                        position=position,
                        num_lanes=len(lanes),
                        last=position == len(tasks) - 1,
                    ),
                )
                self._tasks[message.id] = Task(message, batches)
                made[-1].append(self._tasks[message.id])
        return made

    def _connect(self, dies: float) -> ParameterClient:
        return ParameterClient(
            self._cluster,
            lambda one: DyingTransport(
                DirectTransport(Service(DESCRIPTOR, self.partitions[one.index])), self._rng, dies
            ),
            self._layout,
            rates=self._rates,
        )

    def _step(self, held: HeldTask, item: Prepared, pulled: Pulled) -> TrainResult:
        assert pulled.dense is not None
        kernel = pulled.dense[: INPUTS * DIM].reshape(INPUTS, DIM)
        mean = pulled.dense[INPUTS * DIM :]
        batch = item.minibatch.features
        loss, of_kernel, of_rows, new_mean = gradients(
            batch, kernel, pulled.rows[0], item.lookup.inverses[0]
        )
        finite = (held.task.id, item.minibatch.k) != self.nan_at
        dense = np.concatenate([of_kernel.ravel(), np.float32(0.1) * (new_mean - mean)])
        return TrainResult(loss if finite else np.nan, finite, dense, (of_rows,))

    def new_lane(self) -> tuple[Lane, threading.Event]:
        """A lane of a new worker, and what is set when it has ended."""
        client = self._connect(self._dies)
        ended = threading.Event()
        lane = Lane(
            Connection(client, LaneClient(client)),
            ListedStream(self._tasks, client, self._read),
            self.ledger,
            self._step,
            lambda *_: ended.set(),
        )
        return lane, ended

    def held(self, lane: int) -> list[HeldTask]:
        """The tasks of one lane of the first epoch, as a worker holds them."""
        return [self._hold(one) for one in self._epochs[0][lane]]

    def _hold(self, task: Task) -> HeldTask:
        message = master_pb2.Task()
        message.CopyFrom(task.message)
        message.attempt = self.ledger.attempts[message.id]
        return HeldTask(message, next(self._grants), task.batches)

    def _run_lane(self, tasks: list[Task]) -> None:
        """Train a lane's tasks to the end, however often its worker is killed."""
        while left := [one for one in tasks if one.message.id not in self.ledger.done]:
            lane, ended = self.new_lane()
            try:
                # One ahead, as a worker that holds two leases.
                for task in left[:2]:
                    if not lane.take(self._hold(task)):
                        break
            except Killed:
                self.num_deaths += 1
            except TaskDiffers as error:
                self.ledger.begin_anew(error.task, error.attempt)
            lane.join(DEADLINE_S)
            if not ended.is_set():
                self.num_deaths += 1
            lane.connection.lanes.close()
            if self.ledger.failures:
                return

    def run(self) -> None:
        """Run the job; its lanes side by side."""
        for lanes in self._epochs:
            threads = [
                threading.Thread(target=self._run_lane, args=(tasks,), daemon=True)
                for tasks in lanes
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
                assert not thread.is_alive(), "a lane waits for ever"

    def parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kernel, running mean, and the rows of all ids."""
        lookup: Lookup = self.client.prepare([np.arange(NUM_IDS)])
        pulled = self.client.start_pull(lookup).result()
        assert pulled.dense is not None
        kernel = pulled.dense[: INPUTS * DIM].reshape(INPUTS, DIM)
        return kernel, pulled.dense[INPUTS * DIM :], pulled.rows[0][lookup.inverses[0]]

    def audits(self) -> list[ps_pb2.PartitionAudit]:
        """What every partition has counted."""
        return [one.get_audit(ps_pb2.AuditRequest(incarnation=1)) for one in self.partitions]

    @property
    def versions(self) -> list[int]:
        """Steps each partition has closed."""
        lookup = self.client.prepare([np.zeros(0, np.int64)])
        return list(self.client.start_pull(lookup).result().versions)
