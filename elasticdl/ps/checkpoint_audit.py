"""What the partitions had counted when a checkpoint was taken, as they would have told it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.proto import ps_pb2
from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.manifest import read_manifest
from elasticdl.ps.part_files import PlacedPart, damages, directory_at
from elasticdl.ps.progress import TOTALS


def audits_of(checkpoint: str | Path) -> list[ps_pb2.PartitionAudit]:
    """Return the audit of each partition, by index; the sizes of its tables are left out.

    Raises:
      JobError: the checkpoint is not whole.
    """
    manifest = read_manifest(checkpoint)
    parts = sorted(manifest.parts, key=lambda part: int(part["partition"]))
    return [_audit_of(PlacedPart(directory_at(checkpoint), part)) for part in parts]


def _audit_of(placed: PlacedPart) -> ps_pb2.PartitionAudit:
    import pyarrow as pa

    problems = damages(placed)
    if problems:
        raise JobError(problems[0])
    rows: list[dict[str, Any]] = []
    for file in placed.files("progress"):
        rows += pa.ipc.open_file(file.open()).read_all().to_pylist()
    first = rows[0] if rows else {"epochs": [], "epoch_records": [], "epoch_losses": []}
    audit = ps_pb2.PartitionAudit(
        groups=[row["group"] for row in rows],
        closed_tasks=len(IntervalSet.of(placed.part["closed"])),
        epochs=[
            # Every group counts every minibatch; a group's own sums stand for the epoch.
            ps_pb2.EpochSum(epoch=epoch, records=records, loss_sum=loss)
            for epoch, records, loss in sorted(
                zip(first["epochs"], first["epoch_records"], first["epoch_losses"], strict=True)
            )
        ],
    )
    for name in TOTALS:
        getattr(audit, name).extend(row[name] for row in rows)
    return audit
