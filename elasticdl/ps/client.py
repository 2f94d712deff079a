"""A worker's view of all parameter servers: one RPC per partition per direction per step."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

from elasticdl.errors import JobError
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import bfloat16, frames
from elasticdl.ps.dense_variables import plan_slices
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.pulling import Incoming, Lookup, PendingPull, Pulled
from elasticdl.ps.routing import deduplicate
from elasticdl.ps.vector_parts import VectorParts
from elasticdl.rpc import (
    Client,
    DeadlinePassed,
    Frame,
    Placement,
    RpcUnavailable,
    Transport,
)

DEADLINE_S = 120.0
CALL_TIMEOUT_S = 30.0
PAGE_ROWS = 1 << 16
WIRE_DTYPES = {"float32": ps_pb2.WIRE_FLOAT32, "bfloat16": ps_pb2.WIRE_BFLOAT16}
"""By their names as an option."""
Answer = tuple[ps_pb2.PsReply, list[memoryview]]
# It is not the partition that was meant, or it waits for its initial values.
_ANOTHER_CLUSTER = (
    ps_pb2.PS_STALE_INCARNATION,
    ps_pb2.PS_STALE_ROUTING,
    ps_pb2.PS_NOT_INITIALIZED,
)
_ANSWERED = (
    ps_pb2.PS_OK,
    ps_pb2.PS_OUT_OF_ORDER,
    ps_pb2.PS_RATES_WANTED,
    ps_pb2.PS_OLD_ATTEMPT,
    ps_pb2.PS_OTHER_MINIBATCHES,
)


class StaleCluster(Exception):
    """A partition moved, restarted or is empty: the cluster must be asked for again."""


class PinGone(Exception):
    """A partition has not, or not any more, what was pinned under this number."""


class TaskRewound(Exception):
    """A partition wants an earlier minibatch of the task than was sent: it must start again."""


class TaskDiffers(Exception):
    """A group has other minibatches of the task than were sent: it must begin anew."""

    def __init__(self, task: int, attempt: int, text: str) -> None:
        super().__init__(text)
        self.task = task
        self.attempt = attempt


class GaveUp(Exception):
    """The wait was ended from outside: the job is over."""


@dataclass(frozen=True)
class ModelLayout:
    """What lives on the parameter servers, the same in every process.

    tables: name and dim of each table; model: the wire form, initializers and optimizer included.
    """

    model: ps_pb2.ModelDefinition

    @property
    def dims(self) -> list[int]:
        """Width of each table's rows."""
        return [table.dim for table in self.model.tables]

    @property
    def variable_sizes(self) -> list[int]:
        """Elements of each dense variable."""
        return [int(np.prod(one.shape, dtype=np.int64)) for one in self.model.variables]

    @property
    def optimizer(self) -> OptimizerConfig:
        """What updates them."""
        return OptimizerConfig.from_json(self.model.optimizer)


class ParameterClient:
    """Pulls from and pushes to every partition. Thread-safe.

    Args:
      cluster: where the partitions are; all of them.
      connect: makes a transport to one.
      layout: what lives there.
      give_up: true once the job is over; ends every wait.
      is_stale: true once the master says that a partition came, went or moved; ends every wait.
      rates: computes a block of the learning-rate schedule, float32 ``[1000]``; called by the
        threads that push.
      wire_dtype: what weights that are trained with, and gradients, travel as.
    """

    def __init__(
        self,
        cluster: master_pb2.Cluster,
        connect: Callable[[master_pb2.Partition], Transport],
        layout: ModelLayout,
        give_up: Callable[[], bool] = lambda: False,
        rates: Callable[[int], np.ndarray] | None = None,
        is_stale: Callable[[], bool] = lambda: False,
        wire_dtype: ps_pb2.WireDtype = ps_pb2.WIRE_FLOAT32,
    ) -> None:
        self.layout = layout
        self.wire_dtype = wire_dtype
        self.incarnations = tuple(one.incarnation for one in cluster.partitions)
        self.num_partitions = len(cluster.partitions)
        self.cluster_version = cluster.version
        self._give_up = give_up
        self._is_stale = is_stale
        self._rates = rates
        self._routing = cluster.routing
        self._partition_of_group = np.array(cluster.routing.partition_of_group, np.int32)
        service = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
        self._clients = [
            Client(service, connect(one), f"parameter server {one.index} ({one.address})")
            for one in cluster.partitions
        ]
        self._plan_dense()

    def _plan_dense(self) -> None:
        variables = self.layout.model.variables
        sizes = self.layout.variable_sizes
        starts = dict(zip([one.name for one in variables], np.cumsum([0, *sizes]), strict=False))
        self.dense_size = sum(sizes)
        slices = plan_slices(
            [(one.name, size, one.trainable) for one, size in zip(variables, sizes, strict=True)],
            len(self._partition_of_group),
        )
        pieces: list[list[tuple[int, int, bool]]] = [[] for _ in self._clients]
        for item in slices:
            start = int(starts[item.variable]) + item.offset
            pieces[self._partition_of_group[item.group]].append(
                (start, start + item.length, item.trainable)
            )
        # Where in the flat vector each partition's slices lie, in the partition's order.
        self._parts = [VectorParts.of(each) for each in pieces]
        ends = np.cumsum(sizes).tolist()
        self._whole = VectorParts.of(
            (end - size, end, one.trainable)
            for end, size, one in zip(ends, sizes, variables, strict=True)
        )

    # ------------------------------------------------------------- before training

    def initialize(self, dense: np.ndarray) -> None:
        """Define the model on every partition with these values, float32 ``[D]``; idempotent.

        Raises:
          JobError: a partition holds another model.
        """
        for index, incarnation in enumerate(self.incarnations):
            header = ps_pb2.InitializeHeader(
                incarnation=incarnation, routing=self._routing, model=self.layout.model
            )
            parts = self._parts[index].to_send(dense, ps_pb2.WIRE_FLOAT32)
            self._ask(index, "Initialize", frames.pack(header, parts))

    def load_rows(self, table: str, ids: np.ndarray, rows: np.ndarray) -> None:
        """Set rows of a table: ids int64 ``[n]``, distinct; rows float32 ``[n, dim]``."""
        for start in range(0, len(ids), PAGE_ROWS):
            page = ids[start : start + PAGE_ROWS]
            unique, inverse, offsets = deduplicate(page, self._partition_of_group)
            ordered = np.empty((len(unique), rows.shape[1]), np.float32)
            ordered[inverse] = rows[start : start + PAGE_ROWS]
            for index, incarnation in enumerate(self.incarnations):
                part = slice(int(offsets[index]), int(offsets[index + 1]))
                header = ps_pb2.LoadRowsHeader(
                    incarnation=incarnation, routing_version=self._routing.version, table=table
                )
                self._ask(index, "LoadRows", frames.pack(header, [unique[part], ordered[part]]))

    def export_rows(self, position: int, pin: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return all ids int64 ``[n]``, ascending, and rows float32 ``[n, dim]`` of one table.

        Args:
          position: of the table.
          pin: as of this pin; 0 for the current ones.

        Raises:
          PinGone: a partition does not have that pin.
        """
        table = self.layout.model.tables[position]
        all_ids, all_rows = [np.zeros(0, np.int64)], [np.zeros((0, table.dim), np.float32)]
        for index, incarnation in enumerate(self.incarnations):
            cursor = 0
            while cursor >= 0:
                header = ps_pb2.ExportRowsHeader(
                    incarnation=incarnation,
                    table=table.name,
                    cursor=cursor,
                    max_rows=PAGE_ROWS,
                    pin=pin,
                )
                reply, buffers = self._ask(index, "ExportRows", frames.pack(header))
                all_ids.append(frames.int64s(buffers[0]))
                all_rows.append(frames.float32_rows(buffers[1], table.dim))
                cursor = reply.cursor
        ids, rows = np.concatenate(all_ids), np.concatenate(all_rows)
        order = np.argsort(ids)
        return ids[order], rows[order]

    # ---------------------------------------------------------------- a minibatch

    def prepare(self, ids: Sequence[np.ndarray]) -> Lookup:
        """Deduplicate each table's ids, int64 ``[n]``, and order them by partition."""
        parts = [deduplicate(one, self._partition_of_group) for one in ids]
        return Lookup(
            tuple(part[0] for part in parts),
            tuple(part[1] for part in parts),
            tuple(part[2] for part in parts),
        )

    def start_pull(
        self, lookup: Lookup, dense: bool = True, pin: int = 0, exact: bool = False
    ) -> PendingPull:
        """Ask every partition for its rows and dense slices; returns at once.

        Args:
          lookup: the ids.
          dense: whether the dense slices are wanted.
          pin: as of this pin, exactly; 0 for the current ones.
          exact: whether the current ones are wanted as they are, too, whatever `wire_dtype` is.
        """
        dtype = ps_pb2.WIRE_FLOAT32 if pin or exact else self.wire_dtype
        header = ps_pb2.PullHeader(dense=dense, pin=pin, dtype=dtype)
        requests = self.pull_requests(lookup, header)
        incoming = self.incoming(lookup, header)
        calls = [
            self.start(index, "Pull", request, placement)
            for index, (request, placement) in enumerate(
                zip(requests, incoming.placements, strict=True)
            )
        ]
        return PendingPull(lambda: self._finish_pull(incoming, requests, calls))

    def incoming(self, lookup: Lookup, header: ps_pb2.PullHeader) -> Incoming:
        """Return memory for what a pull brings."""
        whole = self._whole if header.dense else None
        return Incoming(lookup, self.layout.dims, header.dtype, whole, self._parts)

    def pull_requests(self, lookup: Lookup, header: ps_pb2.PullHeader) -> list[Frame]:
        """Return the frame that pulls a lookup's rows from each partition."""
        requests = []
        for index, incarnation in enumerate(self.incarnations):
            header.incarnation = incarnation
            header.routing_version = self._routing.version
            buffers = [
                unique[offsets[index] : offsets[index + 1]]
                for unique, offsets in zip(lookup.unique, lookup.offsets, strict=True)
            ]
            requests.append(frames.pack(header, buffers))
        return requests

    def _finish_pull(
        self, incoming: Incoming, requests: list[Frame], calls: list[Future[Frame]]
    ) -> Pulled:
        answers = []
        for index, call in enumerate(calls):
            try:
                answers.append(self.read(index, call.result()))
            except RpcUnavailable:
                placement = incoming.placements[index]
                answers.append(self._ask(index, "Pull", requests[index], placement))
        return self.pulled(incoming, answers)

    def pulled(self, incoming: Incoming, answers: Sequence[Answer]) -> Pulled:
        """Return what the partitions, in order, answered to `pull_requests`.

        Raises:
          JobError: the answer of one does not fit the model.
        """
        for index, placement in enumerate(incoming.placements):
            if not placement.is_filled:
                raise JobError(f"{self.name(index)}: what was pulled does not fit the model")
        return incoming.pulled([reply.version for reply, _ in answers])

    def push(
        self,
        index: int,
        header: ps_pb2.PushHeader,
        lookup: Lookup | None = None,
        row_gradients: Sequence[np.ndarray] = (),
        dense_gradients: np.ndarray | None = None,
    ) -> tuple[int, bool]:
        """Push one minibatch, a skip or a closing frame to one partition, until it is acknowledged.

        Args:
          index: the partition.
          header: task, k and the rest; incarnation and routing version are filled in.
          lookup: the minibatch's ids; None for a skip or a closing frame.
          row_gradients: float32 ``[u, dim]`` of each table.
          dense_gradients: float32 ``[D]``.

        Returns:
          The minibatch this partition wants next of the task, and whether the push was in order:
          if it was not, nothing was applied and that minibatch has to come first.

        Raises:
          StaleCluster: the partition moved; nothing was applied.
          TaskRewound: the task has begun anew; nothing was applied.
          TaskDiffers: it must begin anew; nothing was applied.
          DeadlinePassed: it did not answer in time.
        """
        buffers: list[np.ndarray | list[np.ndarray]] = []
        header.dtype = self.wire_dtype
        if lookup is not None:
            assert dense_gradients is not None
            for table, offsets in enumerate(lookup.offsets):
                part = slice(int(offsets[index]), int(offsets[index + 1]))
                if self.layout.model.tables[table].frozen:
                    part = slice(0, 0)
                rows = row_gradients[table][part]
                if self.wire_dtype == ps_pb2.WIRE_BFLOAT16:
                    rows = bfloat16.narrow(rows)
                buffers += [lookup.unique[table][part], rows]
            buffers += self._parts[index].to_send(dense_gradients, self.wire_dtype)
        frame = frames.pack(self.addressed(index, header), buffers)
        reply, _ = self._ask(index, "Push", frame)
        while reply.status == ps_pb2.PS_RATES_WANTED:
            self._send_rates(index, reply.wanted_block)
            reply, _ = self._ask(index, "Push", frame)
        if reply.status == ps_pb2.PS_OLD_ATTEMPT:
            raise TaskRewound(f"{self.name(index)}: {reply.message}")
        if reply.status == ps_pb2.PS_OTHER_MINIBATCHES:
            text = f"{self.name(index)}: {reply.message}"
            raise TaskDiffers(header.task, header.attempt, text)
        return reply.next, reply.status != ps_pb2.PS_OUT_OF_ORDER

    def _send_rates(self, index: int, block: int) -> None:
        if self._rates is None:
            raise JobError(f"{self.name(index)} wants learning rates, but there is no schedule")
        header = ps_pb2.SetRatesHeader(incarnation=self.incarnations[index], block=block)
        self._ask(index, "SetRates", frames.pack(header, [self._rates(block)]))

    def addressed(self, index: int, header: ps_pb2.PushHeader) -> ps_pb2.PushHeader:
        """Fill in which incarnation and which routing the header means, and return it."""
        header.incarnation = self.incarnations[index]
        header.routing_version = self._routing.version
        return header

    def next_minibatch(self, task: int, attempt: int = 0) -> int:
        """The lowest minibatch any group of any partition wants of a task (R2), in an attempt."""
        request = ps_pb2.TaskProgressRequest(task=task, attempt=attempt)
        return min(self._task_progress(index, request).next for index in range(self.num_partitions))

    def task_progress(self, task: int, lane: ps_pb2.LanePosition) -> list[ps_pb2.TaskProgressReply]:
        """Where each partition stands in a task of a lane (sync mode).

        From then on none of them listens to who was granted a task of the lane before.

        Raises:
          TaskRewound: the lane was granted to somebody else.
        """
        request = ps_pb2.TaskProgressRequest(task=task, lane=lane)
        return [self._task_progress(index, request) for index in range(self.num_partitions)]

    def _task_progress(
        self, index: int, request: ps_pb2.TaskProgressRequest
    ) -> ps_pb2.TaskProgressReply:
        request.incarnation = self.incarnations[index]
        reply = self.call(index, "GetTaskProgress", request)
        if reply.status != ps_pb2.PS_OK:
            raise self.refusal(index, reply.status)
        return reply

    # -------------------------------------------------------------------- the pin

    def pin(
        self,
        number: int,
        attempt: int = 0,
        action: ps_pb2.PinAction = ps_pb2.PIN_NOW,
        version: int = 0,
    ) -> list[ps_pb2.PinReply]:
        """Ask every partition to pin what it holds now, or at a version; see `PinRequest`.

        Returns:
          Their replies, each PS_OK, PS_NOT_YET or PS_PIN_TOO_LATE.

        Raises:
          PinGone: a newer pin, or attempt to make it, has come.
          StaleCluster: a partition moved.
          DeadlinePassed: one did not answer in time.
        """
        return [
            self._ask_for_pin(
                index,
                "Pin",
                ps_pb2.PinRequest(number=number, attempt=attempt, action=action, version=version),
            )
            for index in range(self.num_partitions)
        ]

    def unpin(self, number: int) -> None:
        """Let every partition drop a pin and those before it; idempotent. Raises as `pin`."""
        for index in range(self.num_partitions):
            self._ask_for_pin(index, "Unpin", ps_pb2.PinRequest(number=number))

    def _ask_for_pin(self, index: int, method: str, request: ps_pb2.PinRequest) -> ps_pb2.PinReply:
        request.incarnation = self.incarnations[index]
        reply = self.call(index, method, request)
        if reply.status in (ps_pb2.PS_OK, ps_pb2.PS_NOT_YET, ps_pb2.PS_PIN_TOO_LATE):
            return reply
        if reply.status == ps_pb2.PS_PIN_GONE:
            raise PinGone(f"{self.name(index)}: pin {request.number} is not the newest")
        raise self.refusal(index, reply.status, reply.message)

    # -------------------------------------------------------------- what it counted

    def training_losses(self) -> dict[int, float]:
        """Return the mean training loss of each epoch that any minibatch was applied of.

        Every partition counts every minibatch; the first one's sums stand for all.
        """
        request = ps_pb2.AuditRequest(incarnation=self.incarnations[0])
        reply = self.call(0, "GetAudit", request)
        if reply.status != ps_pb2.PS_OK:
            raise self.refusal(0, reply.status)
        return {one.epoch: one.loss_sum / one.records for one in reply.epochs if one.records}

    def close(self) -> None:
        """Free the connections."""
        for client in self._clients:
            client.close()

    # ------------------------------------------------------------------- one call

    def check(self) -> None:
        """Say whether it is worth while to wait on.

        Raises:
          GaveUp: it is not: the job is over, or this worker is to leave.
          StaleCluster: it is not: a partition came, went or moved.
        """
        if self._give_up():
            raise GaveUp
        if self._is_stale():
            raise StaleCluster("a parameter server came, went or moved")

    def name(self, index: int) -> str:
        """A partition's name, for messages."""
        return self._clients[index].name

    def start(
        self, index: int, method: str, request: Frame, placement: Placement | None = None
    ) -> Future[Frame]:
        """Start a call of a partition that takes and returns a frame."""
        return self._clients[index].start(method, request, CALL_TIMEOUT_S, placement)

    def read(self, index: int, frame: Frame, expected: Container[int] = _ANSWERED) -> Answer:
        """Take apart a partition's reply.

        Raises:
          StaleCluster: the partition moved, or is empty.
          JobError: it refused, with none of the `expected` statuses.
        """
        reply, buffers = frames.unpack(frame, ps_pb2.PsReply)
        if reply.status in expected:
            return reply, buffers
        raise self.refusal(index, reply.status, reply.message)

    def refusal(self, index: int, status: int, message: str = "") -> Exception:
        """Return the error that a partition's refusal is."""
        text = f"{self.name(index)}: {message or ps_pb2.PsStatus.Name(status)}"
        if status in _ANOTHER_CLUSTER:
            return StaleCluster(text)
        if status == ps_pb2.PS_PIN_GONE:
            return PinGone(text)
        if status == ps_pb2.PS_OLD_ATTEMPT:
            return TaskRewound(text)
        name = ps_pb2.PsStatus.Name(status)
        return JobError(f"{self.name(index)} refused a request ({name}): {message}")

    def call(
        self,
        index: int,
        method: str,
        request: Message | Frame,
        placement: Placement | None = None,
    ) -> Any:
        """Call a partition until there is an answer: a lost reply never means nothing happened.

        Raises:
          DeadlinePassed: it did not answer in time.
          GaveUp: the job is over.
          StaleCluster: a partition came, went or moved meanwhile.
        """
        try:
            return self._clients[index].call_until(
                method, request, DEADLINE_S, CALL_TIMEOUT_S, self._is_over, placement
            )
        except DeadlinePassed:
            self.check()
            raise

    def _is_over(self) -> bool:
        return self._give_up() or self._is_stale()

    def _ask(
        self, index: int, method: str, request: Frame, placement: Placement | None = None
    ) -> Answer:
        return self.read(index, self.call(index, method, request, placement))
