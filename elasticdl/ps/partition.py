"""One partition of the model: its tables, its dense slices, and the progress of its groups.

Frames in, frames out; no gRPC. A request is refused whole, before anything of it is applied, when
it means another incarnation (R3), was routed by another table (R1) or does not fit the definition.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.dense_variables import DenseSlices, plan_slices
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.pins import Pins
from elasticdl.ps.progress import CLOSED, Decision, Progress
from elasticdl.ps.routing import group_of

MAX_EXPORT_ROWS = 1 << 18
MAX_DENSE_ELEMENTS = 1 << 33


class _Refused(Exception):
    """The request is answered with a status, and nothing was changed."""

    def __init__(self, status: ps_pb2.PsStatus, message: str = "", next_wanted: int = 0) -> None:
        super().__init__(message)
        self.reply = ps_pb2.PsReply(status=status, message=message, next=next_wanted)


class Partition:
    """The state of parameter server `index`. Thread-safe.

    Args:
      index: which partition this is.
      incarnation: which life of it; requests that name another are refused.
    """

    def __init__(self, index: int, incarnation: int) -> None:
        self.index = index
        self.incarnation = incarnation
        self._lock = threading.Lock()
        self._model: ps_pb2.ModelDefinition | None = None
        self._routing_version = -1
        self._partition_of_group = np.zeros(0, np.int32)
        self._groups = np.zeros(0, np.int64)
        self._position_of_group = np.zeros(0, np.int64)
        self._tables: list[EmbeddingTable] = []
        self._optimizer = OptimizerConfig(name="sgd")
        self._dense: DenseSlices | None = None
        self.progress = Progress(0)
        self._pins = Pins(self._take_image, self._drop_image)
        self._pinned_dense = np.zeros(0, np.float32)

    # ------------------------------------------------------------------ the model

    def initialize(self, data: bytes) -> bytes:
        """Define the partition and set its initial values; a repeat changes nothing."""
        try:
            header, buffers = frames.unpack(data, ps_pb2.InitializeHeader)
            with self._lock:
                self._check_incarnation(header.incarnation)
                if self._model is None:
                    self._define(header, buffers)
                elif self._model != header.model:
                    raise _Refused(
                        ps_pb2.PS_INVALID,
                        "the partition was initialized with another model; do all workers see the "
                        "same model zoo?",
                    )
            return frames.pack(ps_pb2.PsReply())
        except _Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _define(self, header: ps_pb2.InitializeHeader, buffers: list[memoryview]) -> None:
        partition_of_group = np.array(header.routing.partition_of_group, np.int32)
        optimizer = OptimizerConfig.from_json(header.model.optimizer)
        sizes = [math.prod(variable.shape) for variable in header.model.variables]
        if any(size < 0 for size in sizes) or sum(sizes) > MAX_DENSE_ELEMENTS:
            raise frames.FrameError(
                f"{sum(sizes)} dense elements; a model has at most {MAX_DENSE_ELEMENTS}"
            )
        slices = plan_slices(
            [
                (variable.name, size, variable.trainable)
                for variable, size in zip(header.model.variables, sizes, strict=True)
            ],
            len(partition_of_group),
        )
        dense = DenseSlices(
            [item for item in slices if partition_of_group[item.group] == self.index], optimizer
        )
        if len(buffers) != 1:
            raise frames.FrameError(f"{len(buffers)} buffers; the dense slices are one")
        values = frames.float32s(buffers[0])
        if len(values) != dense.size:
            raise frames.FrameError(f"{len(values)} dense values; the partition holds {dense.size}")
        tables = [
            EmbeddingTable(
                table.name,
                table.dim,
                optimizer,
                RowInitializer(
                    kind=table.initializer.kind,
                    seed=table.initializer.seed,
                    a=table.initializer.a,
                    b=table.initializer.b,
                ),
            )
            for table in header.model.tables
        ]
        dense.load(values)
        self._groups = np.flatnonzero(partition_of_group == self.index)
        self._position_of_group = np.full(len(partition_of_group), -1, np.int64)
        self._position_of_group[self._groups] = np.arange(len(self._groups))
        self._partition_of_group = partition_of_group
        self._optimizer, self._dense, self._tables = optimizer, dense, tables
        self.progress = Progress(len(self._groups))
        self._routing_version = header.routing.version
        self._model = header.model

    def load_rows(self, data: bytes) -> bytes:
        """Set rows of a table before training: those of a trained model."""
        try:
            header, buffers = frames.unpack(data, ps_pb2.LoadRowsHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                table = self._table(header.table)
                if len(buffers) != 2:
                    raise frames.FrameError("ids and rows are two buffers")
                ids = frames.int64s(buffers[0])
                rows = frames.float32_rows(buffers[1], table.dim)
                if len(ids) != len(rows):
                    raise frames.FrameError(f"{len(ids)} ids, {len(rows)} rows")
                self._check_hosted(ids)
                table.load(ids, rows)
            return frames.pack(ps_pb2.PsReply())
        except _Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def export_rows(self, data: bytes) -> bytes:
        """Return a page of a table: ids int64 ``[n]``, weights float32 ``[n, dim]``."""
        try:
            header, _ = frames.unpack(data, ps_pb2.ExportRowsHeader)
            with self._lock:
                self._check(header.incarnation, self._routing_version)
                table = self._table(header.table)
                count = min(max(1, header.max_rows), MAX_EXPORT_ROWS)
                if header.pin:
                    self._check_pin(header.pin)
                    ids, rows, cursor = table.pinned_page(header.cursor, count)
                else:
                    ids, rows = table.page(header.cursor, count)
                    end = header.cursor + len(ids)
                    cursor = end if end < len(table) else -1
                return frames.pack(ps_pb2.PsReply(cursor=cursor), [ids, rows])
        except _Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, ValueError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    # ------------------------------------------------------------------ a minibatch

    def pull(self, data: bytes) -> bytes:
        """Return rows for ids of each table, and the dense slices if asked for; changes nothing."""
        try:
            header, buffers = frames.unpack(data, ps_pb2.PullHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                if len(buffers) != len(self._tables):
                    raise frames.FrameError(f"{len(buffers)} buffers, {len(self._tables)} tables")
                if header.pin:
                    self._check_pin(header.pin)
                values = [
                    table.pinned_lookup(ids) if header.pin else table.lookup(ids)
                    for table, ids in zip(
                        self._tables, [frames.int64s(buffer) for buffer in buffers], strict=True
                    )
                ]
                if header.dense:
                    assert self._dense is not None
                    values.append(self._pinned_dense if header.pin else self._dense.values())
                version = self._pins.version if header.pin else self._version()
                return frames.pack(ps_pb2.PsReply(version=version), values)
        except _Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def push(self, data: bytes) -> bytes:
        """Apply minibatch (task, k), or close the task, in the groups that want it next (R2)."""
        try:
            header, buffers = frames.unpack(data, ps_pb2.PushHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                decision = self.progress.decide(header.task, header.k)
                if not decision.in_order:
                    raise _Refused(ps_pb2.PS_OUT_OF_ORDER, next_wanted=decision.next)
                if header.close:
                    self._close_task(header, decision)
                else:
                    self._take_minibatch(header, buffers, decision)
                return frames.pack(
                    ps_pb2.PsReply(version=self._version(), next=self.progress.next(header.task))
                )
        except _Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _close_task(self, header: ps_pb2.PushHeader, decision: Decision) -> None:
        if self.progress.has_passed(header.task, header.k):
            raise _Refused(
                ps_pb2.PS_INVALID,
                f"task {header.task} is closed after {header.k} minibatches, but more of it were "
                "applied before: the input function does not make the same minibatches of the "
                "same records each time; make it deterministic",
            )
        if decision.apply.any():
            self.progress.close(
                decision,
                header.task,
                header.task_records,
                header.emitted_records,
                header.limited,
            )

    def _take_minibatch(
        self, header: ps_pb2.PushHeader, buffers: list[memoryview], decision: Decision
    ) -> None:
        if not decision.apply.any():
            self.progress.drop_repeat(decision)
            return
        if header.skip:
            self.progress.drop_repeat(decision)
            self.progress.skip(decision, header.task, header.num_records)
            return
        updates, dense_gradients = self._read_gradients(buffers, decision)
        for table, (ids, _, _) in zip(self._tables, updates, strict=True):
            table.reserve(ids)
        # Nothing fails from here on: the groups change together with their progress.
        self.progress.drop_repeat(decision)
        iterations = self.progress.advance(
            decision, header.task, header.epoch, header.num_records, header.loss
        )
        learning_rate = self._optimizer.learning_rate
        for table, (ids, gradients, positions) in zip(self._tables, updates, strict=True):
            table.apply(ids, gradients, learning_rate, iterations[positions])
        assert self._dense is not None
        if self._dense.size:
            num_groups = len(self._partition_of_group)
            all_iterations = np.zeros(num_groups, np.int64)
            all_iterations[self._groups] = iterations
            mask = np.zeros(num_groups, bool)
            mask[self._groups] = decision.apply
            self._dense.apply(dense_gradients, learning_rate, all_iterations, mask)

    def _read_gradients(
        self, buffers: list[memoryview], decision: Decision
    ) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray]], np.ndarray]:
        """Return (ids, gradients, their groups' positions) of each table, and dense gradients.

        Where only some groups want the minibatch, the others' ids are left out.
        """
        assert self._dense is not None
        if len(buffers) != 2 * len(self._tables) + 1:
            raise frames.FrameError(f"{len(buffers)} buffers, {len(self._tables)} tables")
        updates = []
        for position, table in enumerate(self._tables):
            ids = frames.int64s(buffers[2 * position])
            gradients = frames.float32_rows(buffers[2 * position + 1], table.dim)
            if len(ids) != len(gradients):
                raise frames.FrameError(
                    f"table {table.name}: {len(ids)} ids, {len(gradients)} gradient rows"
                )
            positions = self._check_hosted(ids)
            if not decision.apply.all():
                wanted = decision.apply[positions]
                ids, gradients, positions = ids[wanted], gradients[wanted], positions[wanted]
            updates.append((ids, gradients, positions))
        dense_gradients = frames.float32s(buffers[-1])
        if len(dense_gradients) != self._dense.size:
            raise frames.FrameError(
                f"{len(dense_gradients)} dense gradients; the partition holds {self._dense.size}"
            )
        return updates, dense_gradients

    # ------------------------------------------------------------------ the pin

    def pin(self, request: ps_pb2.PinRequest) -> ps_pb2.PinReply:
        """Keep what is here now, or once a version is reached, while training goes on."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
                return self._pins.pin(request, self._version())
            except _Refused as refused:
                reply = refused.reply
                return ps_pb2.PinReply(status=reply.status, message=reply.message)
            except MemoryError as error:
                return ps_pb2.PinReply(status=ps_pb2.PS_INVALID, message=str(error))

    def unpin(self, request: ps_pb2.PinRequest) -> ps_pb2.PinReply:
        """Let a pin go; nothing happens if a newer one is here."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except _Refused as refused:
                reply = refused.reply
                return ps_pb2.PinReply(status=reply.status, message=reply.message)
            self._pins.unpin(request.number)
            return ps_pb2.PinReply(version=self._version())

    def _take_image(self) -> None:
        assert self._dense is not None
        dense = self._dense.values()
        for table in self._tables:
            table.pin()
        self._pinned_dense = dense

    def _drop_image(self) -> None:
        for table in self._tables:
            table.unpin()
        self._pinned_dense = np.zeros(0, np.float32)

    # ------------------------------------------------------------------ questions

    def get_task_progress(self, request: ps_pb2.TaskProgressRequest) -> ps_pb2.TaskProgressReply:
        """Where this partition's groups stand in one task (R2)."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except _Refused as refused:
                return ps_pb2.TaskProgressReply(status=refused.reply.status)
            return ps_pb2.TaskProgressReply(next=self.progress.next(request.task))

    def get_audit(self, request: ps_pb2.AuditRequest) -> ps_pb2.PartitionAudit:
        """What every group of this partition has counted."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except _Refused as refused:
                return ps_pb2.PartitionAudit(status=refused.reply.status)
            totals = self.progress.totals
            assert self._dense is not None
            return ps_pb2.PartitionAudit(
                groups=self._groups,
                applied_records=totals.applied_records,
                applied_minibatches=totals.applied_minibatches,
                repeats_dropped=totals.repeats_dropped,
                skipped_records=totals.skipped_records,
                filtered_records=totals.filtered_records,
                added_records=totals.added_records,
                beyond_limit_records=totals.beyond_limit_records,
                closed_records=totals.closed_records,
                closed_tasks=len(self.progress.closed),
                epochs=[
                    # Every group counts every minibatch; a group's own sums stand for the epoch.
                    ps_pb2.EpochSum(
                        epoch=epoch, records=int(sums.records[0]), loss_sum=float(sums.loss[0])
                    )
                    for epoch, sums in sorted(self.progress.epochs.items())
                ],
                tables=[
                    ps_pb2.TableSize(name=table.name, rows=len(table), num_bytes=table.num_bytes)
                    for table in self._tables
                ],
                dense_bytes=4 * self._dense.size,
            )

    # ------------------------------------------------------------------ checks

    def _version(self) -> int:
        return int(self.progress.totals.applied_minibatches.max())

    def _check_incarnation(self, incarnation: int) -> None:
        if incarnation != self.incarnation:
            raise _Refused(
                ps_pb2.PS_STALE_INCARNATION,
                f"partition {self.index} is at incarnation {self.incarnation}, not {incarnation}",
            )

    def _check(self, incarnation: int, routing_version: int) -> None:
        self._check_incarnation(incarnation)
        if self._model is None:
            raise _Refused(ps_pb2.PS_NOT_INITIALIZED)
        if routing_version != self._routing_version:
            raise _Refused(
                ps_pb2.PS_STALE_ROUTING,
                f"routing is at version {self._routing_version}, not {routing_version}",
            )

    def _check_pin(self, number: int) -> None:
        if not self._pins.is_pinned(number):
            raise _Refused(ps_pb2.PS_PIN_GONE, f"pin {number} is not there any more")

    def _check_hosted(self, ids: np.ndarray) -> np.ndarray:
        """Return the local position of each id's group; FrameError if one is not hosted here."""
        positions = self._position_of_group[group_of(ids, len(self._partition_of_group))]
        if len(positions) and positions.min() < 0:
            raise frames.FrameError(f"ids of groups that partition {self.index} does not host")
        return positions

    def _table(self, name: str) -> EmbeddingTable:
        for table in self._tables:
            if table.name == name:
                return table
        raise frames.FrameError(f"no table '{name}'; there are {[t.name for t in self._tables]}")


__all__ = ["CLOSED", "Partition"]
