"""Loads what a partition is to host from a checkpoint, of any number of partitions, or a copy."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elasticdl.errors import JobError
from elasticdl.proto import ps_pb2
from elasticdl.ps import part_schemas
from elasticdl.ps.contents import Contents
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.lanes import MAX_LANES, Closing, LanesState, LaneState, Reading, lowest
from elasticdl.ps.manifest import part_chains, read_manifest
from elasticdl.ps.part_files import PartFile, PlacedPart, damages
from elasticdl.ps.part_reader import (
    model_of,
    numbers,
    read_batches,
    read_file,
    slice_values,
    vectors,
)
from elasticdl.ps.progress import TOTALS, GroupProgress, Progress, TaskState
from elasticdl.ps.routing import group_of
from elasticdl.ps.table_snapshot import Candidates

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Source:
    """What a partition is restored from.

    name: as text. newest_checkpoint: the highest number of those that it is, or goes beyond.
    num_groups: bucket groups of the job. chains: for each part, those it builds on, the whole one
    first, itself last.
    """

    name: str
    newest_checkpoint: int
    num_groups: int
    model: ps_pb2.ModelDefinition
    chains: Sequence[Sequence[PlacedPart]]

    def unusable(self, error: object) -> JobError:
        """What to raise where something is wrong with it; one line."""
        return JobError(f"{self.name}: {error}; use another one")

    @classmethod
    def checkpoint(cls, directory: str | Path) -> Source:
        """Return a checkpoint, its files unread.

        Raises:
          JobError: it is not whole, as far as names and sizes tell; one line.
        """
        manifest = read_manifest(directory)
        name = f"checkpoint '{directory}'"
        try:
            model = model_of(manifest)
        except ValueError as error:
            raise JobError(f"{name}: {error}; use another one") from None
        chains = list(part_chains(directory, manifest))
        return cls(name, manifest.number, len(manifest.routing), model, chains)


class _Verified:
    """Compares files of parts with their sums, in a thread, while they are read.

    Raises:
      JobError: at the end of the context, if one is damaged; whatever reading it raised.
    """

    def __init__(self, parts: Sequence[PlacedPart]) -> None:
        self._parts = parts
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verify")

    def __enter__(self) -> None:
        self._problems = self._pool.submit(self._find)

    def _find(self) -> list[str]:
        return next((found for one in self._parts if (found := damages(one))), [])

    def __exit__(self, *_: object) -> None:
        with self._pool:
            for problem in self._problems.result():
                raise JobError(problem)


class Restoring:
    """Reads what one partition is to hold.

    Args:
      source: where from.
      routing: which groups the partition is to host.
      partition: its index.
    """

    def __init__(self, source: Source, routing: ps_pb2.Routing, partition: int) -> None:
        self._source = source
        self._routing = routing
        self._partition = partition

    def read(self) -> tuple[Contents, LanesState | None]:
        """Return what the partition holds, and in sync mode where the lanes begin again.

        Raises:
          JobError: a file is damaged or does not fit; one line.
          ConnectionError: a store does not answer, which says nothing of its files.
        """
        try:
            return self._read()
        except ConnectionError:
            raise
        except (ValueError, TypeError, KeyError, OSError, MemoryError) as error:
            raise self._source.unusable(error) from error

    def _read(self) -> tuple[Contents, LanesState | None]:
        source = self._source
        if len(self._routing.partition_of_group) != source.num_groups:
            raise ValueError(
                f"it has {source.num_groups} bucket groups, the job has "
                f"{len(self._routing.partition_of_group)}"
            )
        contents = Contents.define(source.model, self._routing, self._partition)
        hosted = set(contents.groups.tolist())
        chains = [chain for chain in source.chains if hosted & set(chain[-1].part["groups"])]
        # Nobody is given what is read before all of it was found to be whole.
        with _Verified([placed for chain in chains for placed in chain]):
            self._read_values(contents, chains)
        # All partitions begin with the same lanes, whatever they host.
        newest = [chain[-1] for chain in source.chains]
        for problem in (one for placed in newest for one in damages(placed, "lanes")):
            raise JobError(problem)
        lanes = [_read_lanes(file) for placed in newest for file in placed.files("lanes")]
        return contents, lowest(lanes) if lanes else None

    def _read_values(self, contents: Contents, chains: Sequence[Sequence[PlacedPart]]) -> None:
        self._read_dense(contents, [chain[-1] for chain in chains])
        for table in contents.tables:
            table.expect(
                sum(_num_rows(table, chain, set(contents.groups.tolist())) for chain in chains)
            )
            for chain in chains:
                self._read_table(contents, table, chain)
            table.end_restore()
            self._read_candidates(contents, table, [chain[-1] for chain in chains])
        self._read_progress(contents, [chain[-1] for chain in chains])

    def _read_dense(self, contents: Contents, parts: list[PlacedPart]) -> None:
        layout = contents.dense.layout
        lengths = [one.length for one in layout]
        starts = np.cumsum([0, *lengths])
        place = {(one.variable, one.offset): i for i, one in enumerate(layout)}
        slot_names = contents.optimizer.slot_names
        values = np.zeros((1 + len(slot_names), contents.dense.size), np.float32)
        found = 0
        schema = part_schemas.dense_schema(slot_names)
        for batch in read_batches(parts, "dense", schema):
            keys = zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True)
            wanted = [(row, place[key]) for row, key in enumerate(keys) if key in place]
            found += len(wanted)
            for row, i in wanted:
                for column, values_of in enumerate(batch.columns[3:]):
                    values[column, starts[i] : starts[i + 1]] = slice_values(
                        values_of, row, lengths[i]
                    )
        if found != len(layout):
            raise ValueError(f"{found} dense slices of {len(layout)} are there")
        contents.dense.load(values[0], values[1:])

    def _read_table(
        self, contents: Contents, table: EmbeddingTable, chain: Sequence[PlacedPart]
    ) -> None:
        for placed in chain:
            for batch in read_batches([placed], "gone", part_schemas.gone_schema(), table.name):
                table.restore_without(numbers(batch[0], np.int64))
            slot_names = table.optimizer.slot_names
            schema = part_schemas.rows_schema(table.dim, slot_names, table.rows_age)
            for batch in read_batches([placed], "rows", schema, table.name):
                self._restore_rows(contents, table, batch)

    def _restore_rows(
        self, contents: Contents, table: EmbeddingTable, batch: pa.RecordBatch
    ) -> None:
        ids = numbers(batch[0], np.int64)
        positions = contents.position_of_group[group_of(ids, len(contents.partition_of_group))]
        last = 2 + 1 + table.optimizer.num_slots
        columns = [vectors(column, table.dim) for column in batch.columns[2:last]]
        lasts = np.zeros(len(ids), np.int64)
        if table.rows_age:
            lasts = numbers(batch.columns[-1], np.int64)
        ours = positions >= 0
        if not ours.all():
            ids, lasts, positions = ids[ours], lasts[ours], positions[ours]
            columns = [column[ours] for column in columns]
        table.restore(ids, columns, lasts, positions)

    def _read_candidates(
        self, contents: Contents, table: EmbeddingTable, parts: list[PlacedPart]
    ) -> None:
        schema = part_schemas.candidates_schema()
        columns = [
            [numbers(batch[i], np.int64) for i in (0, 2, 3)]
            for batch in read_batches(parts, "candidates", schema, table.name)
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
        for batch in read_batches(parts, "progress", part_schemas.progress_schema()):
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


def _num_rows(table: EmbeddingTable, chain: Sequence[PlacedPart], hosted: set[int]) -> int:
    """Return how many rows of a table are in the whole part of a chain, if all are wanted."""
    whole = chain[0]
    if not set(whole.part["groups"]) <= hosted:
        return 0
    row_bytes = 4 * table.dim * (1 + table.optimizer.num_slots)
    return sum(
        min(one["rows"], one["bytes"] // row_bytes)
        for one in whole.part["files"]
        if one["kind"] == "rows" and one["table"] == table.name
    )


def _group_progress(row: dict[str, Any]) -> GroupProgress:
    return GroupProgress(
        row["iterations"],
        {name: row[name] for name in TOTALS},
        IntervalSet.of(row["closed"]),
        _open_tasks(row),
        {
            epoch: (records, loss)
            for epoch, records, loss in zip(
                row["epochs"], row["epoch_records"], row["epoch_losses"], strict=True
            )
        },
    )


def _open_tasks(row: dict[str, Any]) -> dict[int, TaskState]:
    names = (*part_schemas.OPEN_COUNTS, "digest")
    states = zip(*(row[f"open_{name}"] for name in names), strict=True)
    return {
        task: TaskState(**dict(zip(names, state, strict=True)))
        for task, state in zip(row["open_tasks"], states, strict=True)
    }


def _read_lanes(file: PartFile) -> LanesState:
    lanes: list[LaneState] = []
    metadata: dict[bytes, bytes] = {}
    for batch in read_file(file, part_schemas.lanes_schema()):
        metadata = batch.schema.metadata
        for row in batch.to_pylist():
            names = ("minibatches", "records", "limited", "attempt", "start")
            closed = zip(*(row[f"closed_{name}"] for name in names), strict=True)
            closings = tuple(Closing(*one) for one in closed)
            reading = Reading(row["attempt"], row["start"], row["digest"])
            lanes.append(LaneState(closings, row["next"], row["has_ended"], reading))
    if len(lanes) > MAX_LANES:
        raise ValueError(f"{len(lanes)} lanes")
    return LanesState(int(metadata[b"step"]), int(metadata[b"epoch"]), tuple(lanes))
