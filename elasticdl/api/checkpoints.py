"""What ``elasticdl checkpoints`` says of the checkpoints of a job, of a directory, or of one."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

from elasticdl.api.job_backends import PLACE
from elasticdl.data.filesystems import is_remote, use_stores_of
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JobSpec, absolute_path
from elasticdl.ps.manifest import (
    Manifest,
    committed,
    directory_of,
    is_checkpoint,
    number_of,
    part_chains,
    read_manifest,
    verify,
)


def list_checkpoints(place: str) -> list[dict[str, Any]]:
    """A row for each checkpoint: number, steps, time, what it is, size, state, directory."""
    with _answering(place):
        return [_row(path) for path in _find(place)]


def inspect_checkpoint(place: str) -> dict[str, Any]:
    """What a checkpoint (the newest of several) consists of.

    Raises:
      JobError: it is not whole, as far as names and sizes tell.
    """
    with _answering(place):
        return _inspect(_find(place)[-1])


def verify_checkpoints(place: str) -> list[dict[str, Any]]:
    """Read everything; for each checkpoint, its directory and what is wrong with it."""
    with _answering(place):
        return [{"directory": path, "problems": verify(path)} for path in _find(place)]


@contextlib.contextmanager
def _answering(place: str) -> Iterator[None]:
    """Have a place that cannot be read, or does not answer, be an error of one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"'{place}': {error.strerror or error}") from None


def _find(place: str) -> list[str]:
    """The checkpoints that a person means, ascending by number.

    Args:
      place: a checkpoint's directory, a directory of checkpoints, or a job's name or directory.

    Raises:
      UsageError: there are none.
    """
    directory = absolute_path(place)
    if is_checkpoint(directory):
        return [directory.rstrip("/")]
    found = committed(directory)
    if not found:
        directory = _root_of_job(place, directory)
        found = committed(directory)
    if not found:
        raise UsageError(f"'{place}': no checkpoint in '{directory}'; none was committed there")
    return found


def _root_of_job(place: str, directory: str) -> str:
    """Where the checkpoints of a job are; where there is no such job, it is a directory's name."""
    try:
        placed = PLACE.find(place)
        spec = JobSpec.load(placed.directory, placed.job_dir)
    except UsageError:
        if is_remote(directory) or os.path.isdir(directory):
            return directory
        raise UsageError(
            f"'{place}': neither a job nor a directory; give a job, a directory of "
            "checkpoints, or a checkpoint"
        ) from None
    if is_remote(spec.checkpoint_root):
        use_stores_of(spec, patience_s=0)
    return spec.checkpoint_root


def _row(path: str) -> dict[str, Any]:
    row: dict[str, Any] = {"number": number_of(path)}
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
    return {**row, "directory": path}


def _inspect(path: str) -> dict[str, Any]:
    manifest = read_manifest(path)
    tables: dict[str, int] = {}
    for part in manifest.parts:
        for one in part["files"]:
            if one["kind"] == "rows":
                tables[one["table"]] = tables.get(one["table"], 0) + one["rows"]
    root = os.path.dirname(path)
    chains = part_chains(path, manifest)
    needed = {int(placed.part["number"]) for chain in chains for placed in chain}
    return {
        "directory": path,
        "number": manifest.number,
        "job_name": manifest.job_name,
        "steps": manifest.steps,
        "time": _time(manifest),
        "kind": _kind(manifest),
        "builds_on": [directory_of(root, n) for n in manifest.chain[:-1]],
        "bytes": _num_bytes(manifest),
        "bytes_in_all": sum(
            _num_bytes(read_manifest(directory_of(root, number))) for number in needed
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


def _kind(manifest: Manifest) -> str:
    return "increment" if len(manifest.chain) > 1 else "whole"


def _num_bytes(manifest: Manifest) -> int:
    return sum(one["bytes"] for part in manifest.parts for one in part["files"])


def _time(manifest: Manifest) -> str:
    moment = datetime.datetime.fromtimestamp(manifest.time, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
