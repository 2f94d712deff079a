"""One partition of the model: its tables, its dense slices, and the progress of its groups.

Frames in, frames out. A request is refused whole, before anything of it is applied, when
it means another incarnation (R3), was routed by another table (R1) or does not fit the definition.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from elasticdl.phases import PHASES, Phase
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.averaging import Gradients
from elasticdl.ps.contents import Contents
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.lanes import LaneError
from elasticdl.ps.learning_rates import LearningRates, decided_rate
from elasticdl.ps.lifetimes import GroupSteps
from elasticdl.ps.part_files import Destination
from elasticdl.ps.part_writer import Moment, PartImage, PartWriter
from elasticdl.ps.partition_audit import partition_audit
from elasticdl.ps.pins import Pins
from elasticdl.ps.progress import CLOSED, Decision
from elasticdl.ps.refusal import Refused
from elasticdl.ps.restoring import Restoring, Source
from elasticdl.ps.routing import positions_of
from elasticdl.ps.snapshots import Snapshots
from elasticdl.ps.step_updates import StepUpdates
from elasticdl.ps.synchronous import SynchronousSteps
from elasticdl.ps.traffic import Traffic, doing_of
from elasticdl.ps.vector_parts import num_buffers
from elasticdl.rpc import Frame

MAX_EXPORT_ROWS = 1 << 18


class Partition:
    """The state of parameter server `index`. Thread-safe.

    Args:
      index: which partition this is.
      incarnation: which life of it; requests that name another are refused.
      longest_wait_s: of a request that has to wait, in sync mode.
      most_waiting: requests that may wait at a time; fewer than the threads that bring requests.
    """

    def __init__(
        self, index: int, incarnation: int, longest_wait_s: float = 2.0, most_waiting: int = 8
    ) -> None:
        self.index = index
        self.incarnation = incarnation
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._longest_wait_s = longest_wait_s
        self._most_waiting = most_waiting
        self._steps: SynchronousSteps | None = None
        self._hold(Contents.nothing())
        self._model: ps_pb2.ModelDefinition | None = None
        self._was_restored = False
        self._snapshots = Snapshots(self._lock, self._take_part)
        self._pins = Pins(self._take_image, self._drop_image)
        self._pinned_dense = np.zeros(0, np.float32)
        self._traffic = Traffic()

    # ------------------------------------------------------------------ the model

    def initialize(self, frame: Frame) -> Frame:
        """Define the partition and set its initial values; a repeat changes nothing."""
        try:
            header, buffers = frames.unpack(frame, ps_pb2.InitializeHeader)
            with self._lock:
                self._check_incarnation(header.incarnation)
                if self._model is None:
                    contents = Contents.define(header.model, header.routing, self.index)
                    if len(buffers) != 1:
                        raise frames.FrameError(f"{len(buffers)} buffers; the slices are one")
                    values = frames.float32s(buffers[0])
                    if len(values) != contents.dense.size:
                        raise frames.FrameError(
                            f"{len(values)} dense values; the partition holds {contents.dense.size}"
                        )
                    contents.dense.load(values)
                    self._hold(contents)
                elif self._model != header.model:
                    raise Refused(
                        ps_pb2.PS_INVALID,
                        "the partition was initialized with another model; do all workers see the "
                        "same model zoo?",
                    )
            return frames.pack(ps_pb2.PsReply())
        except Refused as refused:
            return frames.pack(refused.reply)
        except (ValueError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def restore(self, source: Source, routing: ps_pb2.Routing) -> None:
        """Define the partition and set everything as a checkpoint or copy has it, before it serves.

        Args:
          source: which.
          routing: the groups to host.

        Raises:
          JobError: it is damaged or does not fit; one line, and nothing was changed.
        """
        contents, lanes = Restoring(source, routing, self.index).read()
        with self._lock:
            self._hold(contents)
            self._was_restored = True
            self._snapshots.newest_checkpoint = source.newest_checkpoint
            if self._steps is not None and lanes is not None:
                self._steps.lanes.restore(lanes)

    def _hold(self, contents: Contents) -> None:
        self._contents = contents
        self._groups = contents.groups
        self._position_of_group = contents.position_of_group
        self._partition_of_group = contents.partition_of_group
        self._optimizer, self._dense = contents.optimizer, contents.dense
        self._tables = contents.tables
        self._rates = LearningRates(contents.optimizer)
        self.progress = contents.progress
        if contents.model.HasField("synchronous"):
            self._steps = SynchronousSteps(
                contents.model.synchronous.max_steps or None,
                self.progress,
                StepUpdates(self, contents.model),
                self._changed,
                self._longest_wait_s,
                self._most_waiting,
            )
        self._routing_version = contents.routing_version
        self._model = contents.model

    def load_rows(self, frame: Frame) -> Frame:
        """Set rows of a table before training: those of a trained model.

        After the first push, snapshot or restore nothing is set: a repeat came late.
        """
        try:
            header, buffers = frames.unpack(frame, ps_pb2.LoadRowsHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                table = self._table(header.table)
                if len(buffers) != 2:
                    raise frames.FrameError("ids and rows are two buffers")
                ids = frames.int64s(buffers[0])
                rows = frames.float32_rows(buffers[1], table.dim)
                if len(ids) != len(rows):
                    raise frames.FrameError(f"{len(ids)} ids, {len(rows)} rows")
                positions = self._check_hosted(ids)
                if not (self._version() or self._was_restored or self._snapshots.has_begun):
                    table.load(ids, rows, groups=positions)
            return frames.pack(ps_pb2.PsReply())
        except Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def export_rows(self, frame: Frame) -> Frame:
        """Return a page of a table: ids int64 ``[n]``, weights float32 ``[n, dim]``."""
        try:
            header, _ = frames.unpack(frame, ps_pb2.ExportRowsHeader)
            with self._lock:
                self._check(header.incarnation, self._routing_version)
                table = self._table(header.table)
                count = min(max(1, header.max_rows), MAX_EXPORT_ROWS)
                if header.pin:
                    self._check_pin(header.pin)
                    ids, rows, cursor = table.pinned_page(header.cursor, count)
                else:
                    ids, rows = table.page(header.cursor, count)
                    end = header.cursor + count
                    cursor = end if end < table.end_row else -1
                return frames.pack(ps_pb2.PsReply(cursor=cursor), [ids, rows])
        except Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, ValueError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    # ------------------------------------------------------------------ a minibatch

    def pull(self, frame: Frame) -> Frame:
        """Return rows for ids of each table, and the dense slices if asked for; changes nothing.

        In sync mode, for a minibatch that is to be computed: once its step is open.
        """
        try:
            header, buffers = frames.unpack(frame, ps_pb2.PullHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                if header.HasField("lane"):
                    self._synchronous().pull(header.lane, header.k)
                if len(buffers) != len(self._tables):
                    raise frames.FrameError(f"{len(buffers)} buffers, {len(self._tables)} tables")
                if header.pin:
                    self._check_pin(header.pin)
                with PHASES.measure(Phase.GATHER):
                    ids = [frames.int64s(buffer) for buffer in buffers]
                    return self._traffic.pulled(self._gather(header, ids))
        except Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, LaneError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _gather(self, header: ps_pb2.PullHeader, ids: list[np.ndarray]) -> Frame:
        dtype, is_pinned = frames.check_dtype(header.dtype, bool(header.pin)), bool(header.pin)
        values: list[np.ndarray | list[np.ndarray]] = [
            table.pinned_lookup(own) if is_pinned else table.sent(own, dtype)
            for table, own in zip(self._tables, ids, strict=True)
        ]
        if header.dense:
            values += [self._pinned_dense] if is_pinned else self._dense.sent(dtype)
        reply = ps_pb2.PsReply(version=self._pins.version if header.pin else self._version())
        if self._steps is not None:
            reply.open_ns = self._steps.open_ns
        return frames.pack(reply, values)

    def push(self, frame: Frame) -> Frame:
        """Apply minibatch (task, k), or close the task, in the groups that want it next (R2)."""
        try:
            header, buffers = frames.unpack(frame, ps_pb2.PushHeader)
            with self._lock:
                self._check(header.incarnation, header.routing_version)
                if not header.close:
                    self._traffic.pushed(frame)
                if self._steps is not None:
                    return frames.pack(self._push_to_step(self._steps, header, buffers))
                decision = self._decide(header)
                if header.close:
                    self._close_task(header, decision)
                else:
                    with PHASES.measure(Phase.APPLY):
                        self._take_minibatch(header, buffers, decision)
                wanted = self.progress.next(header.task, header.attempt)
                return frames.pack(ps_pb2.PsReply(version=self._version(), next=wanted))
        except Refused as refused:
            return frames.pack(refused.reply)
        except (ValueError, LaneError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _decide(self, header: ps_pb2.PushHeader) -> Decision:
        decision = self.progress.decide(
            header.task, header.k, header.attempt, header.digest_before, header.close
        )
        if decision.is_old:
            raise Refused(ps_pb2.PS_OLD_ATTEMPT, f"task {header.task} has begun anew")
        if not decision.in_order:
            raise Refused(ps_pb2.PS_OUT_OF_ORDER, next_wanted=decision.next)
        if decision.differs:
            raise Refused(
                ps_pb2.PS_OTHER_MINIBATCHES, f"task {header.task} was begun with other minibatches"
            )
        return decision

    def _push_to_step(
        self, steps: SynchronousSteps, header: ps_pb2.PushHeader, buffers: list[memoryview]
    ) -> ps_pb2.PsReply:
        if header.close:
            steps.close(header)
            return ps_pb2.PsReply(version=steps.version, next=CLOSED)
        # The rate of the open step, which the push is for: once it closes nothing is refused.
        every = np.ones(len(self._groups), bool)
        self._rates.of_update(decided_rate(header), self.progress.iterations, every)
        next_wanted = steps.push(header, lambda: self._read_gradients(header, buffers)[0])
        self._traffic.applied(0)
        return ps_pb2.PsReply(version=steps.version, next=next_wanted)

    def _close_task(self, header: ps_pb2.PushHeader, decision: Decision) -> None:
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
            self.progress.skip(decision, header.task, header.num_records, header.digest_after)
            return
        assert self._model is not None
        is_aware = self._model.staleness_aware_learning_rate
        staleness = self._version() - header.version
        rates = self._rates.of_update(
            decided_rate(header),
            self.progress.iterations,
            decision.apply,
            staleness if is_aware else 1,
        )
        gradients, positions = self._read_gradients(header, buffers, decision)
        rows = self._reserve(gradients)
        # Nothing fails from here on: the groups change together with their progress.
        self.progress.drop_repeat(decision)
        self.progress.advance(
            decision,
            header.task,
            header.epoch,
            header.num_records,
            header.loss,
            header.digest_after,
        )
        self._update(gradients, rows, positions, rates, decision.apply)
        self._traffic.applied(staleness)

    def _reserve(self, gradients: Gradients) -> list[np.ndarray | None]:
        """Make room for all rows, what may fail of an update; return those known, by table."""
        tables = zip(self._tables, gradients.tables, strict=True)
        return [table.prepare(ids) for table, (ids, _) in tables]

    def _update(
        self,
        gradients: Gradients,
        rows: Sequence[np.ndarray | None],
        positions: Sequence[np.ndarray],
        rates: Sequence[tuple[float, np.ndarray]],
        apply: np.ndarray,
    ) -> None:
        """Update the groups that `apply` names, and count the update.

        Args:
          gradients: of the groups' rows, and of all dense slices.
          rows: what `_reserve` returned for them.
          positions: for each table, the position of each id's group.
          rates: each learning rate and the groups that have it, bool ``[groups]``.
          apply: bool ``[groups]``.
        """
        iterations = self.progress.count_update(apply)
        self._traffic.learning_rate = rates[-1][0]
        for rate, groups in rates:
            for table, (ids, of_rows), known, where in zip(
                self._tables, gradients.tables, rows, positions, strict=True
            ):
                if len(rates) > 1:
                    ours = groups[where]
                    ids, of_rows, where = ids[ours], of_rows[ours], where[ours]
                    known = None if known is None else known[ours]
                steps = GroupSteps(where, iterations, groups & apply)
                table.apply(ids, of_rows, rate, iterations[where], steps, known)
            self._update_dense(gradients.dense, rate, iterations, groups)

    def _update_dense(
        self, gradients: np.ndarray, rate: float, iterations: np.ndarray, groups: np.ndarray
    ) -> None:
        if not self._dense.size:
            return
        if groups.all() and iterations.min() == iterations.max():
            self._dense.apply_all(gradients, rate, int(iterations[0]))
        else:
            num_groups = len(self._partition_of_group)
            all_iterations = np.zeros(num_groups, np.int64)
            all_iterations[self._groups] = iterations
            mask = np.zeros(num_groups, bool)
            mask[self._groups] = groups
            self._dense.apply(gradients, rate, all_iterations, mask)

    # --------------------------------------------------------------- learning rates

    def set_rates(self, frame: Frame) -> Frame:
        """Take a block of the learning-rate schedule; one that is there stays as it is."""
        try:
            header, buffers = frames.unpack(frame, ps_pb2.SetRatesHeader)
            with self._lock:
                self._check(header.incarnation, self._routing_version)
                if len(buffers) != 1:
                    raise frames.FrameError(f"{len(buffers)} buffers; the rates are one")
                self._rates.table.set(header.block, frames.float32s(buffers[0]))
            return frames.pack(ps_pb2.PsReply())
        except Refused as refused:
            return frames.pack(refused.reply)
        except ValueError as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _read_gradients(
        self, header: ps_pb2.PushHeader, buffers: list[memoryview], wanted: Decision | None = None
    ) -> tuple[Gradients, list[np.ndarray]]:
        """Return the gradients of a push and, for each table, the position of each id's group.

        Where only some groups want the minibatch, the others' ids are left out.
        """
        dtype, of_tables = frames.check_dtype(header.dtype), 2 * len(self._tables)
        if len(buffers) != of_tables + num_buffers(dtype):
            raise frames.FrameError(f"{len(buffers)} buffers, {len(self._tables)} tables")
        tables, all_positions = [], []
        for position, table in enumerate(self._tables):
            ids = frames.int64s(buffers[2 * position])
            gradients = frames.rows(buffers[2 * position + 1], table.dim, dtype)
            if len(ids) != len(gradients):
                raise frames.FrameError(
                    f"table {table.name}: {len(ids)} ids, {len(gradients)} gradient rows"
                )
            positions = self._check_hosted(ids)
            if wanted is not None and not wanted.apply.all():
                ours = wanted.apply[positions]
                ids, gradients, positions = ids[ours], gradients[ours], positions[ours]
            tables.append((ids, gradients))
            all_positions.append(positions)
        dense_gradients = self._dense.parts.read(buffers[of_tables:], dtype)
        return Gradients(tuple(tables), dense_gradients), all_positions

    # ------------------------------------------------------------------ the pin

    def pin(self, request: ps_pb2.PinRequest) -> ps_pb2.PinReply:
        """Keep what is here now, or once a version is reached, while training goes on."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
                return self._pins.pin(request, self._version())
            except Refused as refused:
                return ps_pb2.PinReply(status=refused.reply.status, message=refused.reply.message)
            except MemoryError as error:
                return ps_pb2.PinReply(status=ps_pb2.PS_INVALID, message=str(error))

    def unpin(self, request: ps_pb2.PinRequest) -> ps_pb2.PinReply:
        """Let a pin go; nothing happens if a newer one is here."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except Refused as refused:
                return ps_pb2.PinReply(status=refused.reply.status, message=refused.reply.message)
            self._pins.unpin(request.number)
            return ps_pb2.PinReply(version=self._version())

    def _take_image(self) -> None:
        dense = self._dense.values()
        for table in self._tables:
            table.pin()
        self._pinned_dense = dense

    def _drop_image(self) -> None:
        for table in self._tables:
            table.unpin()
        self._pinned_dense = np.zeros(0, np.float32)

    # ------------------------------------------------------------------ the snapshot

    def snapshot(self, request: ps_pb2.SnapshotRequest) -> ps_pb2.SnapshotReply:
        """Begin to write what is here into a checkpoint, or say how the writing stands."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
                reply = self._snapshots.snapshot(request, self._version())
            except Refused as refused:
                refusal = refused.reply
                return ps_pb2.SnapshotReply(
                    status=refusal.status, message=refusal.message, version=refusal.version
                )
            if reply.state == ps_pb2.SnapshotReply.WRITTEN:
                reply.model.CopyFrom(self._contents.model)
            return reply

    def _take_part(self, moment: Moment) -> PartImage:
        lanes = None if self._steps is None else self._steps.lanes.state()
        return PartImage.take(self.index, self.incarnation, moment, self._contents, lanes)

    # ------------------------------------------------------------------ the copy

    def begin_copy(self, base: int) -> PartImage | None:
        """Keep what is here for a copy, as `Snapshots.begin_copy` does; `end_copy` follows."""
        with self._lock:
            if self._model is None:
                return None
            return self._snapshots.begin_copy(base, self._version())

    def write_copy(self, image: PartImage, destination: Destination) -> dict[str, Any]:
        """Write an image; return its entry.

        Raises:
          GivenUp: a checkpoint needs its place.
          RpcError: it cannot be written.
        """

        def is_given_up() -> bool:
            return not self._snapshots.has_copy(image)

        return PartWriter(image, destination, self._lock, is_given_up).write()

    def end_copy(self, image: PartImage) -> None:
        """Keep it no longer."""
        with self._lock:
            self._snapshots.end_copy(image)

    # ------------------------------------------------------------------ questions

    def get_task_progress(self, request: ps_pb2.TaskProgressRequest) -> ps_pb2.TaskProgressReply:
        """Where this partition's groups stand in one task (R2)."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except Refused as refused:
                return ps_pb2.TaskProgressReply(status=refused.reply.status)
            if self._steps is not None:
                return self._steps.task_progress(request.lane)
            next_wanted = self.progress.next(request.task, request.attempt)
            return ps_pb2.TaskProgressReply(next=next_wanted)

    def counts(self) -> master_pb2.PartitionCounts | None:
        """What it holds and was asked for, for its heartbeat; None before it holds a model."""
        with self._lock:
            if self._model is None:
                return None
            return self._traffic.counts(self._tables, 4 * self._dense.size)

    def doing(self) -> str:
        """What it is at, in words."""
        return doing_of(self._model is not None, self._snapshots.is_writing)

    def get_step_norms(self, request: ps_pb2.StepNormsRequest) -> ps_pb2.StepNorms:
        """This partition's part of the norms by which a step is clipped."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
                return self._synchronous().get_norms(request.step)
            except Refused as refused:
                return ps_pb2.StepNorms(status=refused.reply.status)

    def set_step_norms(self, request: ps_pb2.StepNorms) -> ps_pb2.StepNormsReply:
        """Close a step that waits for the norms over all partitions."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
                self._synchronous().set_norms(request.step, request.sums)
                return ps_pb2.StepNormsReply()
            except Refused as refused:
                return ps_pb2.StepNormsReply(
                    status=refused.reply.status, message=refused.reply.message
                )
            except (ValueError, MemoryError) as error:
                return ps_pb2.StepNormsReply(status=ps_pb2.PS_INVALID, message=str(error))

    def get_audit(self, request: ps_pb2.AuditRequest) -> ps_pb2.PartitionAudit:
        """What every group of this partition has counted."""
        with self._lock:
            try:
                self._check(request.incarnation, self._routing_version)
            except Refused as refused:
                return ps_pb2.PartitionAudit(status=refused.reply.status)
            return partition_audit(self._contents, request.with_figures)

    # ------------------------------------------------------------------ checks

    def _version(self) -> int:
        if self._steps is not None:
            return self._steps.version
        return int(self.progress.totals.applied_minibatches.max())

    def _synchronous(self) -> SynchronousSteps:
        if self._steps is None:
            raise Refused(ps_pb2.PS_INVALID, "the partition trains asynchronously: no lanes")
        return self._steps

    def _check_incarnation(self, incarnation: int) -> None:
        if incarnation != self.incarnation:
            raise Refused(
                ps_pb2.PS_STALE_INCARNATION,
                f"partition {self.index} is at incarnation {self.incarnation}, not {incarnation}",
            )

    def _check(self, incarnation: int, routing_version: int) -> None:
        self._check_incarnation(incarnation)
        if self._model is None:
            raise Refused(ps_pb2.PS_NOT_INITIALIZED)
        if routing_version != self._routing_version:
            raise Refused(
                ps_pb2.PS_STALE_ROUTING,
                f"routing is at version {self._routing_version}, not {routing_version}",
            )

    def _check_pin(self, number: int) -> None:
        if not self._pins.is_pinned(number):
            raise Refused(ps_pb2.PS_PIN_GONE, f"pin {number} is not there any more")

    def _check_hosted(self, ids: np.ndarray) -> np.ndarray:
        """Return the local position of each id's group; FrameError if one is not hosted here."""
        positions, are_hosted = positions_of(ids, self._position_of_group)
        if not are_hosted:
            raise frames.FrameError(f"ids of groups that partition {self.index} does not host")
        return positions

    def _table(self, name: str) -> EmbeddingTable:
        for table in self._tables:
            if table.name == name:
                return table
        raise frames.FrameError(f"no table '{name}'; there are {[t.name for t in self._tables]}")


__all__ = ["CLOSED", "Partition"]
