"""Writes a partition's part of a checkpoint or copy: Arrow IPC files, each with its SHA-256."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from elasticdl.ps import part_schemas
from elasticdl.ps.contents import Contents
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.lanes import LanesState
from elasticdl.ps.part_files import Destination, Sink
from elasticdl.ps.progress import TOTALS, Progress
from elasticdl.ps.routing import group_of
from elasticdl.ps.table_snapshot import TableSnapshot

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_BYTES = 4 << 20
"""Rows that are copied while the partition's lock is held: one or two milliseconds.

Who trains all the time has the lock most of it; each page waits for it as long as a push takes.
"""

_MAX_PAGE_ROWS = 1 << 16
_DENSE_ELEMENTS_AT_ONCE = 1 << 24
_BLOCK_BYTES = 2 << 20
_BLOCKS_AHEAD = 4


class GivenUp(Exception):
    """A newer snapshot was asked for."""


@dataclass(frozen=True)
class Moment:
    """What an image is taken for.

    number: of the checkpoint or the copy. base: what it is to build on; 0 for nothing. version: of
    the partition now. mark: of this moment, for the changes after it. since: of the base; 0 where
    it is not known. newest_checkpoint: as in `Snapshots`.
    """

    number: int
    base: int
    version: int
    mark: int
    since: int
    newest_checkpoint: int


@dataclass(frozen=True)
class PartImage:
    """One moment of a partition; its tables keep what changes until they are told to let it go.

    base: of the one whose changes since are kept; 0 where everything is.
    """

    partition: int
    incarnation: int
    moment: Moment
    base: int
    contents: Contents
    dense: np.ndarray
    dense_slots: np.ndarray
    tables: list[tuple[EmbeddingTable, TableSnapshot]]
    progress: Progress
    lanes: LanesState | None

    @classmethod
    def take(
        cls,
        partition: int,
        incarnation: int,
        moment: Moment,
        contents: Contents,
        lanes: LanesState | None,
    ) -> PartImage:
        """Keep what there is now; the lock of the partition is held.

        Where what changed since the moment's base is not known, everything is kept.

        Raises:
          MemoryError: nothing is kept.
        """
        known = [table.knows_changes_since(moment.since) for table in contents.tables]
        is_increment = bool(moment.base) and bool(known) and all(known)
        base, since = (moment.base, moment.since) if is_increment else (0, 0)
        dense, slots = contents.dense.values(), contents.dense.slots()
        progress = contents.progress.copy()
        tables: list[tuple[EmbeddingTable, TableSnapshot]] = []
        try:
            for table in contents.tables:
                tables.append((table, table.begin_snapshot(moment.mark, since)))
        except MemoryError:
            for table, snapshot in tables:
                table.end_snapshot(snapshot)
            raise
        return cls(
            partition, incarnation, moment, base, contents, dense, slots, tables, progress, lanes
        )

    def let_go(self) -> None:
        """Keep nothing more; the lock of the partition is held."""
        for table, snapshot in self.tables:
            table.end_snapshot(snapshot)


class PartWriter:
    """Writes one image.

    Args:
      image: what is written.
      destination: where.
      lock: of the partition; held for a page at a time.
      is_given_up: asked often.
    """

    def __init__(
        self,
        image: PartImage,
        destination: Destination,
        lock: threading.Lock,
        is_given_up: Callable[[], bool],
    ) -> None:
        self._image = image
        self._destination = destination
        self._lock = lock
        self._is_given_up = is_given_up
        self._files: list[dict[str, Any]] = []
        self._begun: list[str] = []

    def write(self) -> dict[str, Any]:
        """Write all files; return the part's entry in the manifest.

        Raises:
          OSError: a file cannot be written.
          RpcError: likewise, where it goes to another instance.
          GivenUp: as asked.
        """
        image = self._image
        self._write_progress()
        if image.lanes is not None:
            self._write_lanes(image.lanes)
        self._write_dense()
        for position, (table, snapshot) in enumerate(image.tables):
            self._write_table(position, table, snapshot)
        self._destination.finish()
        groups = image.contents.groups.tolist()
        return {
            "partition": image.partition,
            "incarnation": image.incarnation,
            "number": image.moment.number,
            "base": image.base,
            "version": image.moment.version,
            "groups": groups,
            "closed": image.progress.closed.bounds,
            "files": self._files,
        }

    def remove(self) -> None:
        """Remove what was written."""
        for name in self._begun:
            self._destination.remove(name)

    # ---------------------------------------------------------------------- tables

    def _write_table(self, position: int, table: EmbeddingTable, snapshot: TableSnapshot) -> None:
        schema = part_schemas.rows_schema(
            table.dim, table.optimizer.slot_names, snapshot.last_updates is not None
        )
        self._write("rows", schema, self._row_batches(schema, table, snapshot), position)
        gone = snapshot.gone()
        if len(gone):
            schema = part_schemas.gone_schema()
            self._write("gone", schema, [_batch(schema, [gone])], position)
        candidates = snapshot.candidates
        if candidates is not None:
            schema = part_schemas.candidates_schema()
            columns = [candidates.ids, self._groups_of(candidates.ids)]
            columns += [candidates.seen, candidates.last_updates]
            self._write("candidates", schema, [_batch(schema, columns)], position)

    def _row_batches(
        self, schema: pa.Schema, table: EmbeddingTable, snapshot: TableSnapshot
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        num_columns = table.dim * (1 + table.optimizer.num_slots)
        at_once = max(1, min(_MAX_PAGE_ROWS, PAGE_BYTES // (4 * num_columns)))
        for first in range(0, snapshot.num_positions, at_once):
            with self._lock:
                if self._is_given_up():  # Then the table does not keep it any more.
                    raise GivenUp
                page = table.read_snapshot(snapshot, first, at_once)
            vectors = [
                pa.FixedSizeListArray.from_arrays(
                    np.ascontiguousarray(page.values[:, start : start + table.dim]).reshape(-1),
                    type=field.type,
                )
                for start, field in zip(
                    range(0, num_columns, table.dim), list(schema)[2:], strict=False
                )
            ]
            ages = [] if page.last_updates is None else [page.last_updates]
            columns = [page.ids, self._groups_of(page.ids), *vectors, *ages]
            yield _batch(schema, columns)

    def _groups_of(self, ids: np.ndarray) -> np.ndarray:
        return group_of(ids, len(self._image.contents.partition_of_group)).astype(np.int32)

    # ---------------------------------------------------------------------- the rest

    def _write_dense(self) -> None:
        image = self._image
        layout = image.contents.dense.layout
        schema = part_schemas.dense_schema(image.contents.optimizer.slot_names)

        def batches() -> Iterator[pa.RecordBatch]:
            first = start = 0
            while first < len(layout):
                end, size = first, 0
                while end < len(layout) and (
                    end == first or size + layout[end].length <= _DENSE_ELEMENTS_AT_ONCE
                ):
                    size += layout[end].length
                    end += 1
                some = layout[first:end]
                part = slice(start, start + size)
                offsets = np.cumsum([0, *(one.length for one in some)]).astype(np.int32)
                names = [one.variable for one in some]
                places = [np.array([one.offset for one in some], np.int64)]
                places += [np.array([one.group for one in some], np.int32)]
                vectors = [image.dense[part], *(slot[part] for slot in image.dense_slots)]
                yield _batch(schema, [names, *places, *((offsets, one) for one in vectors)])
                first, start = end, start + size

        self._write("dense", schema, batches())

    def _write_progress(self) -> None:
        image = self._image
        groups = [image.progress.group(position) for position in range(len(image.contents.groups))]
        counted = [snapshot for _, snapshot in image.tables]
        schema = part_schemas.progress_schema()
        columns: list[Any] = [image.contents.groups.astype(np.int32)]
        columns += [[group.iterations for group in groups]]
        columns += [[group.totals[name] for group in groups] for name in TOTALS]
        columns += [[group.closed.bounds for group in groups]]
        columns += [[list(group.open) for group in groups]]
        columns += [
            [[getattr(state, name) for state in group.open.values()] for group in groups]
            for name in (*part_schemas.OPEN_COUNTS, "digest")
        ]
        columns += [[list(group.epochs) for group in groups]]
        columns += [
            [[sums[i] for sums in group.epochs.values()] for group in groups] for i in (0, 1)
        ]
        columns += [[[int(one.unadmitted[i]) for one in counted] for i in range(len(groups))]]
        columns += [[[int(one.evicted[i]) for one in counted] for i in range(len(groups))]]
        self._write("progress", schema, [_batch(schema, columns)])

    def _write_lanes(self, state: LanesState) -> None:
        schema = part_schemas.lanes_schema()
        lanes = state.lanes
        columns: list[Any] = [np.arange(len(lanes), dtype=np.int32)]
        columns += [[lane.next for lane in lanes], [lane.has_ended for lane in lanes]]
        for name in ("attempt", "start", "digest"):
            columns += [[getattr(lane.reading, name) for lane in lanes]]
        for name in ("num_minibatches", "emitted_records", "limited", "attempt", "start"):
            columns += [[[getattr(one, name) for one in lane.closings] for lane in lanes]]
        metadata = {"step": str(state.step), "epoch": str(state.epoch)}
        self._write("lanes", schema, [_batch(schema, columns)], metadata=metadata)

    # ---------------------------------------------------------------------- a file

    def _write(
        self,
        kind: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        table: int | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        import pyarrow as pa

        image = self._image
        prefix = f"p{image.partition}.{image.incarnation}"
        name = f"{prefix}-{kind}{'' if table is None else f'-{table}'}.arrow"
        of = "" if table is None else image.contents.model.tables[table].name
        described = {"kind": kind, "table": of, "number": str(image.moment.number)} | (
            metadata or {}
        )
        num_rows = 0
        self._begun.append(name)
        with (
            self._destination.create(name) as file,
            _Behind(file, self._is_given_up) as sink,
        ):
            stream = pa.BufferedOutputStream(pa.PythonFile(sink, mode="w"), _BLOCK_BYTES)
            with pa.ipc.new_file(stream, schema.with_metadata(described)) as writer:
                for batch in batches:
                    writer.write_batch(batch.replace_schema_metadata(described))
                    num_rows += batch.num_rows
            stream.close()
        self._files.append(
            {
                "name": name,
                "kind": kind,
                "table": of,
                "rows": num_rows,
                "bytes": sink.num_bytes,
                "sha256": sink.digest.hexdigest(),
            }
        )


class _Behind:
    """What Arrow writes to: hashes and writes in a thread, while what comes next is made.

    Stops when the snapshot is given up. When the context ends, everything is written.
    """

    closed = False

    def __init__(self, file: Sink, is_given_up: Callable[[], bool]) -> None:
        self.digest = hashlib.sha256()
        self.num_bytes = 0
        self._file = file
        self._is_given_up = is_given_up
        self._waiting: queue.Queue[memoryview | None] = queue.Queue(_BLOCKS_AHEAD)
        self._error: BaseException | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="snapshot file", daemon=True)

    def __enter__(self) -> _Behind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over = True
        self._waiting.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        if self._is_over:  # What Arrow still has when an exception ended it.
            return len(data)
        if self._is_given_up():
            raise GivenUp
        if self._error is not None:
            raise self._error
        view = memoryview(data).cast("B")
        self.num_bytes += len(view)
        self._waiting.put(view)
        return len(view)

    def _work(self) -> None:
        while (view := self._waiting.get()) is not None:
            if self._error is not None:
                continue
            try:
                self.digest.update(view)
                left = view
                while left:
                    left = left[self._file.write(left) :]
            except BaseException as error:
                self._error = error

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        """Nothing waits for it here."""

    def close(self) -> None:
        """The end of the context is."""


def _batch(schema: pa.Schema, columns: list[Any]) -> pa.RecordBatch:
    """Make a batch of arrays, lists, Arrow arrays, or (offsets, values) of vectors."""
    import pyarrow as pa

    arrays = []
    for field, column in zip(schema, columns, strict=True):
        if isinstance(column, tuple):
            arrays.append(pa.ListArray.from_arrays(*map(pa.array, column), type=field.type))
        elif isinstance(column, pa.Array):
            arrays.append(column)
        else:
            arrays.append(pa.array(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
