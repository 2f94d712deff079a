"""What ``elasticdl checkpoints`` says of the checkpoints of a job, of a directory, or of one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from elasticdl.api.job_backends import PLACE
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JobSpec, absolute_path
from elasticdl.ps.manifest import (
    MANIFEST,
    Manifest,
    committed,
    directory_of,
    part_chains,
    read_manifest,
    verify,
)


def find_checkpoints(place: str) -> list[Path]:
    """The checkpoints that a person means, ascending by number.

    Args:
      place: a checkpoint's directory, a directory of checkpoints, or a job's name or directory.

    Raises:
      UsageError: there are none.
    """
    directory = Path(absolute_path(place))
    if (directory / MANIFEST).is_file():
        return [directory]
    found = committed(directory)
    if not found:
        try:
            root = Path(JobSpec.load(PLACE.find(place).directory).checkpoint_root)
        except UsageError:
            if not directory.is_dir():
                raise UsageError(
                    f"'{place}': neither a job nor a directory; give a job, a directory of "
                    "checkpoints, or a checkpoint"
                ) from None
            root = directory
        found = committed(root)
        directory = root
    if not found:
        raise UsageError(f"'{place}': no checkpoint in '{directory}'; none was committed there")
    return found


def list_checkpoints(place: str) -> list[dict[str, Any]]:
    """A row for each checkpoint: number, steps, time, what it is, size, state, directory."""
    rows = []
    for path in find_checkpoints(place):
        row: dict[str, Any] = {"number": int(path.name)} if path.name.isdigit() else {"number": 0}
        try:
            manifest = read_manifest(path)
            list(part_chains(path, manifest))  # All it builds on has to be there as well.
            row |= {
                "steps": manifest.steps,
                "time": _time(manifest),
                "kind": _kind(manifest),
                "parts": len(manifest.parts),
                "bytes": _num_bytes(manifest),
                "state": "complete",
            }
        except JobError:
            row |= dict.fromkeys(("steps", "time", "kind", "parts", "bytes")) | {"state": "damaged"}
        rows.append({**row, "directory": str(path)})
    return rows


def inspect_checkpoint(place: str) -> dict[str, Any]:
    """What a checkpoint (the newest of several) consists of.

    Raises:
      JobError: it is not whole, as far as names and sizes tell.
    """
    path = find_checkpoints(place)[-1]
    manifest = read_manifest(path)
    tables: dict[str, int] = {}
    for part in manifest.parts:
        for one in part["files"]:
            if one["kind"] == "rows":
                tables[one["table"]] = tables.get(one["table"], 0) + one["rows"]
    chains = part_chains(path, manifest)
    needed = {int(placed.part["number"]) for chain in chains for placed in chain}
    return {
        "directory": str(path),
        "number": manifest.number,
        "job_name": manifest.job_name,
        "steps": manifest.steps,
        "time": _time(manifest),
        "kind": _kind(manifest),
        "builds_on": [str(directory_of(path.parent, n)) for n in manifest.chain[:-1]],
        "bytes": _num_bytes(manifest),
        "bytes_in_all": sum(
            _num_bytes(read_manifest(directory_of(path.parent, number))) for number in needed
        ),
        "partitions": len(manifest.parts),
        "bucket_groups": len(manifest.routing),
        "tasks_defined": len(manifest.tasks),
        "rows": tables,
        "files": [
            {"partition": part["partition"], **one}
            for part in manifest.parts
            for one in part["files"]
        ],
    }


def verify_checkpoints(place: str) -> list[dict[str, Any]]:
    """Read everything; for each checkpoint, its directory and what is wrong with it."""
    return [{"directory": str(path), "problems": verify(path)} for path in find_checkpoints(place)]


def _kind(manifest: Manifest) -> str:
    return "increment" if len(manifest.chain) > 1 else "whole"


def _num_bytes(manifest: Manifest) -> int:
    return sum(one["bytes"] for part in manifest.parts for one in part["files"])


def _time(manifest: Manifest) -> str:
    moment = datetime.datetime.fromtimestamp(manifest.time, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
