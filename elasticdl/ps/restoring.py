"""Loads what a partition is to host from a checkpoint, of whatever number of partitions it is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from elasticdl.errors import JobError
from elasticdl.proto import ps_pb2
from elasticdl.ps import part_schemas
from elasticdl.ps.contents import Contents
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.lanes import MAX_LANES, Closing, LanesState, LaneState, lowest
from elasticdl.ps.manifest import Manifest, PlacedPart, damages, part_chains, read_manifest
from elasticdl.ps.progress import TOTALS, GroupProgress, Progress
from elasticdl.ps.routing import group_of
from elasticdl.ps.table_snapshot import Candidates

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER_BYTES = 4


def model_of(manifest: Manifest) -> ps_pb2.ModelDefinition:
    """Return the definition of the model that a checkpoint is of.

    Raises:
      ValueError: it cannot be read.
    """
    try:
        data = base64.b64decode(manifest.model, validate=True)
        return ps_pb2.ModelDefinition.FromString(data)
    except (DecodeError, binascii.Error) as error:
        raise ValueError(f"the model definition is unreadable: {error}") from None


class Restoring:
    """Reads a checkpoint for one partition.

    Args:
      checkpoint: its directory.
      routing: which groups the partition is to host.
      partition: its index.

    Raises:
      JobError: the checkpoint is not whole, or not one of such groups; one line.
    """

    def __init__(self, checkpoint: Path, routing: ps_pb2.Routing, partition: int) -> None:
        self._checkpoint = checkpoint
        self._manifest = read_manifest(checkpoint)
        self._routing = routing
        self._partition = partition

    def read(self) -> tuple[Contents, LanesState | None]:
        """Return what the partition holds, and in sync mode where the lanes begin again.

        Raises:
          JobError: a file is damaged or does not fit; one line.
        """
        try:
            return self._read()
        except (ValueError, TypeError, KeyError, OSError, MemoryError) as error:
            raise JobError(f"checkpoint '{self._checkpoint}': {error}; use another one") from error

    def _read(self) -> tuple[Contents, LanesState | None]:
        manifest = self._manifest
        if len(self._routing.partition_of_group) != len(manifest.routing):
            raise ValueError(
                f"it has {len(manifest.routing)} bucket groups, the job has "
                f"{len(self._routing.partition_of_group)}"
            )
        model = model_of(manifest)
        self._check_dense_size(model)
        contents = Contents.define(model, self._routing, self._partition)
        hosted = set(contents.groups.tolist())
        chains = [
            chain
            for chain in part_chains(self._checkpoint, manifest)
            if hosted & set(chain[-1].part["groups"])
        ]
        for problem in (one for chain in chains for placed in chain for one in damages(placed)):
            raise JobError(problem)
        self._read_dense(contents, [chain[-1] for chain in chains])
        for table in contents.tables:
            for chain in chains:
                self._read_table(contents, table, chain)
            table.end_restore()
            self._read_candidates(contents, table, [chain[-1] for chain in chains])
        self._read_progress(contents, [chain[-1] for chain in chains])
        lanes = [_read_lanes(path) for chain in chains for path in chain[-1].files("lanes")]
        return contents, lowest(lanes) if lanes else None

    def _check_dense_size(self, model: ps_pb2.ModelDefinition) -> None:
        """Allocate no more for a definition than there are bytes of values."""
        num_bytes = sum(
            one["bytes"]
            for part in self._manifest.parts
            for one in part["files"]
            if one["kind"] == "dense"
        )
        sizes = [_NUMBER_BYTES * int(np.prod(one.shape, dtype=object)) for one in model.variables]
        if min(sizes, default=0) < 0 or sum(sizes) > num_bytes:
            raise ValueError(
                f"its model has {sum(sizes):,} bytes of variables, its files {num_bytes:,}"
            )

    def _read_dense(self, contents: Contents, parts: list[PlacedPart]) -> None:
        layout = contents.dense.layout
        lengths = [one.length for one in layout]
        starts = np.cumsum([0, *lengths])
        place = {(one.variable, one.offset): i for i, one in enumerate(layout)}
        slot_names = contents.optimizer.slot_names
        values = np.zeros((1 + len(slot_names), contents.dense.size), np.float32)
        found = 0
        schema = part_schemas.dense_schema(slot_names)
        for batch in _batches(parts, "dense", schema):
            keys = zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True)
            wanted = [(row, place[key]) for row, key in enumerate(keys) if key in place]
            found += len(wanted)
            for row, i in wanted:
                for column, vectors in enumerate(batch.columns[3:]):
                    values[column, starts[i] : starts[i + 1]] = _vector(vectors, row, lengths[i])
        if found != len(layout):
            raise ValueError(f"{found} dense slices of {len(layout)} are there")
        contents.dense.load(values[0], values[1:])

    def _read_table(
        self, contents: Contents, table: EmbeddingTable, chain: list[PlacedPart]
    ) -> None:
        for placed in chain:
            for batch in _batches([placed], "gone", part_schemas.gone_schema(), table.name):
                table.restore_without(_numbers(batch[0], np.int64))
            for do_age in (False, True):
                schema = part_schemas.rows_schema(table.dim, table.optimizer.slot_names, do_age)
                if do_age is table.rows_age:
                    for batch in _batches([placed], "rows", schema, table.name):
                        self._restore_rows(contents, table, batch)

    def _restore_rows(
        self, contents: Contents, table: EmbeddingTable, batch: pa.RecordBatch
    ) -> None:
        ids = _numbers(batch[0], np.int64)
        positions = contents.position_of_group[group_of(ids, len(contents.partition_of_group))]
        ours = positions >= 0
        num_vectors = 1 + table.optimizer.num_slots
        values = np.concatenate(
            [
                _numbers(vectors.flatten(), np.float32).reshape(-1, table.dim)[ours]
                for vectors in batch.columns[2 : 2 + num_vectors]
            ],
            axis=1,
        )
        lasts = np.zeros(len(ids), np.int64)
        if table.rows_age:
            lasts = _numbers(batch.columns[-1], np.int64)
        table.restore(ids[ours], values, lasts[ours], positions[ours])

    def _read_candidates(
        self, contents: Contents, table: EmbeddingTable, parts: list[PlacedPart]
    ) -> None:
        schema = part_schemas.candidates_schema()
        columns = [
            [_numbers(batch[i], np.int64) for i in (0, 2, 3)]
            for batch in _batches(parts, "candidates", schema, table.name)
        ]
        if not columns:
            return
        ids, seen, lasts = (np.concatenate([one[i] for one in columns]) for i in range(3))
        positions = contents.position_of_group[group_of(ids, len(contents.partition_of_group))]
        ours = positions >= 0
        table.restore_candidates(Candidates(ids[ours], seen[ours], lasts[ours]), positions[ours])

    def _read_progress(self, contents: Contents, parts: list[PlacedPart]) -> None:
        found: dict[int, GroupProgress] = {}
        counts: dict[int, tuple[list[int], list[int]]] = {}
        for batch in _batches(parts, "progress", part_schemas.progress_schema()):
            for row in batch.to_pylist():
                if row["group"] in found:
                    raise ValueError(f"bucket group {row['group']} is there twice")
                found[row["group"]] = _group_progress(row)
                counts[row["group"]] = row["unadmitted"], row["evicted"]
        groups = contents.groups.tolist()
        missing = [group for group in groups if group not in found]
        if missing:
            raise ValueError(f"bucket group {missing[0]} is missing")
        contents.progress = Progress.of_groups([found[group] for group in groups])
        for i, table in enumerate(contents.tables):
            table.unadmitted[:] = [counts[group][0][i] for group in groups]
            table.evicted[:] = [counts[group][1][i] for group in groups]


def _group_progress(row: dict[str, Any]) -> GroupProgress:
    return GroupProgress(
        row["iterations"],
        {name: row[name] for name in TOTALS},
        IntervalSet.of(row["closed"]),
        dict(zip(row["open_tasks"], row["open_next"], strict=True)),
        {
            epoch: (records, loss)
            for epoch, records, loss in zip(
                row["epochs"], row["epoch_records"], row["epoch_losses"], strict=True
            )
        },
    )


def _read_lanes(path: Path) -> LanesState:
    lanes: list[LaneState] = []
    metadata: dict[bytes, bytes] = {}
    for batch in _read_file(path, part_schemas.lanes_schema()):
        metadata = batch.schema.metadata
        for row in batch.to_pylist():
            closed = zip(
                row["closed_minibatches"], row["closed_records"], row["closed_limited"], strict=True
            )
            lanes.append(
                LaneState(tuple(Closing(*one) for one in closed), row["next"], row["has_ended"])
            )
    if len(lanes) > MAX_LANES:
        raise ValueError(f"{len(lanes)} lanes")
    return LanesState(int(metadata[b"step"]), int(metadata[b"epoch"]), tuple(lanes))


# ---------------------------------------------------------------------------- Arrow files


def _batches(
    parts: list[PlacedPart], kind: str, schema: pa.Schema, table: str | None = None
) -> Iterator[pa.RecordBatch]:
    for placed in parts:
        for path in placed.files(kind, table):
            yield from _read_file(path, schema)


def _read_file(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read a file batch by batch; its columns must be exactly these, without nulls."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(schema):
                raise ValueError(f"its columns are {reader.schema.names}, not {schema.names}")
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise ValueError("a value is missing")
                yield batch
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from error


def _numbers(column: pa.Array, dtype: type) -> np.ndarray:
    """View an Arrow array as numpy, aligned and contiguous."""
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False).astype(dtype, copy=False))


def _vector(column: pa.ListArray, row: int, length: int) -> np.ndarray:
    values = column[row].values
    if len(values) != length:
        raise ValueError(f"a dense slice has {len(values)} elements, not {length}")
    return _numbers(values, np.float32)
