"""Checkpoints of the partitions of a test, committed as a master does it."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import Manifest, Where, begin, chain_of, write_manifest
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.ps.routing_table import RoutingTable

GROUPS = 64


def routing_of(num_partitions: int) -> ps_pb2.Routing:
    table = RoutingTable.initial(GROUPS, num_partitions)
    return ps_pb2.Routing(version=table.version, partition_of_group=table.partition_of_group)


def ask(
    partition: Partition,
    root: str | Path,
    number: int,
    base: int = 0,
    at_version: int | None = None,
) -> ps_pb2.SnapshotReply:
    directory = begin(root, number)
    request = ps_pb2.SnapshotRequest(
        incarnation=partition.incarnation, number=number, directory=str(directory), base=base
    )
    if at_version is not None:
        request.at_version = at_version
    return partition.snapshot(request)


def wait_for_writers() -> None:
    """Return when no snapshot is being written any more."""
    for thread in threading.enumerate():
        if thread.name == "snapshot":
            thread.join(60)
            assert not thread.is_alive()


def commit(
    partitions: list[Partition], root: Where, number: int, base: int = 0, **fields: Any
) -> Where:
    """Wait until every partition has written a snapshot that was begun, and commit it."""
    wait_for_writers()
    parts = []
    for partition in partitions:
        reply = ask(partition, root, number, base, **fields)
        assert reply.state == ps_pb2.SnapshotReply.WRITTEN, reply
        parts.append(json.loads(reply.part))
    model = partitions[0]._model
    assert model is not None
    routing = partitions[0]._partition_of_group.tolist()
    return write_manifest(
        root,
        Manifest(
            number=number,
            chain=chain_of(root, number, parts),
            entry=number,
            job_name="job",
            steps=max(part["version"] for part in parts),
            time=0.0,
            routing=routing,
            routing_version=1,
            model=base64.b64encode(model.SerializeToString()).decode(),
            parts=parts,
            tasks=[],
        ),
    )


def restore(checkpoint: str | Path, num_partitions: int, incarnation: int = 2) -> list[Partition]:
    made = [Partition(index, incarnation) for index in range(num_partitions)]
    for partition in made:
        partition.restore(Source.checkpoint(checkpoint), routing_of(num_partitions))
    return made


def contents(partitions: list[Partition]) -> dict[Any, Any]:
    """Everything that must be equal bit for bit, whatever partition it is on."""
    found: dict[Any, Any] = {}
    for partition in partitions:
        for table in partition._tables:
            ids, rows = table.page(0, table.end_row, with_slots=True)
            found |= {
                (table.name, int(one)): row.tobytes() for one, row in zip(ids, rows, strict=True)
            }
        dense = partition._dense
        vectors = np.concatenate([dense.values()[None], dense.slots()])
        start = 0
        for piece in dense.layout:
            values = vectors[:, start : start + piece.length]
            found[piece.variable, piece.offset] = values.tobytes()
            start += piece.length
        for position, group in enumerate(partition._groups.tolist()):
            progress = partition.progress.group(position)
            progress.totals.pop("repeats_dropped")
            found["progress", group] = progress
            found["closed", group] = progress.closed.intervals
            progress.closed = None  # type: ignore[assignment]
            found["counts", group] = [
                (int(table.unadmitted[position]), int(table.evicted[position]))
                for table in partition._tables
            ]
    found["candidates"] = {
        (table.name, int(one)): (int(seen), int(last))
        for partition in partitions
        for table in partition._tables
        if table._admission is not None
        for one, seen, last in zip(
            table._admission.candidates().ids,
            table._admission.candidates().seen,
            table._admission.candidates().last_updates,
            strict=True,
        )
    }
    return found
