"""Which checkpoints are there, what each consists of, and whether it is whole.

A checkpoint is the directory ``ROOT/<number, ten digits>``. It is there once its ``manifest.json``
is, which is renamed into place after everything it names was synced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.part_files import (
    Directory,
    PlacedPart,
    check_part,
    check_size,
    damages,
    integers,
    sync_directory,
)

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 30
_NUMBER_DIGITS = 10


@dataclass(frozen=True)
class Manifest:
    """One committed checkpoint.

    Attributes:
      number: of the checkpoint; counts up.
      chain: numbers it builds on, oldest first, itself last.
      entry: number of the last journal entry when it was begun.
      job_name: whose it is.
      steps: minibatches applied by then, in sync mode steps closed.
      time: when all its parts were written, seconds since 1970.
      routing: the partition of each bucket group then.
      routing_version: of that table.
      model: `ps_pb2.ModelDefinition`, base64.
      parts: what each partition said, parsed (`SnapshotReply.part`).
      tasks: definitions of the tasks that were not closed everywhere, as the journal has them.

    A part is ``{"partition", "incarnation", "number", "base" (0: whole), "version", "groups",
    "closed" (bounds of half-open intervals of tasks closed in all its groups), "files"}``; a file
    ``{"name", "kind", "table", "rows", "bytes", "sha256"}``.
    """

    number: int
    chain: tuple[int, ...]
    entry: int
    job_name: str
    steps: int
    time: float
    routing: list[int]
    routing_version: int
    model: str
    parts: list[dict[str, Any]]
    tasks: list[Any]


def directory_of(root: Path, number: int) -> Path:
    """The directory of a checkpoint."""
    return root / f"{number:0{_NUMBER_DIGITS}d}"


def closed_in_all(parts: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int], ...]:
    """The tasks that every group of every part has closed, as half-open intervals."""
    sets = [IntervalSet.of(part["closed"]) for part in parts]
    closed = sets[0] if sets else IntervalSet()
    for one in sets[1:]:
        closed = closed & one
    return tuple(closed.intervals)


def chain_of(root: Path, number: int, parts: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The numbers a checkpoint of these parts builds on, oldest first, itself last.

    Raises:
      JobError: one of them is not there.
    """
    numbers = {number}
    for base in {int(part["base"]) for part in parts} - {0}:
        numbers.update(read_manifest(directory_of(root, base)).chain)
    return tuple(sorted(numbers))


# ------------------------------------------------------------------------------ writing


def write_manifest(root: Path, manifest: Manifest) -> Path:
    """Commit a checkpoint whose parts are written; return its directory.

    Raises:
      JobError: it cannot be written; the checkpoint is not there.
    """
    directory = directory_of(root, manifest.number)
    temporary = directory / f".{MANIFEST}.tmp"
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1)
    try:
        sync_directory(directory)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / MANIFEST)
        sync_directory(directory)
        sync_directory(root)
    except OSError as error:
        raise JobError(f"checkpoint '{directory}': cannot be written ({error.strerror})") from error
    return directory


def remove(root: Path, numbers: Collection[int]) -> None:
    """Remove checkpoints; one that is removed half way is not there any more."""
    for number in numbers:
        directory = directory_of(root, number)
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def remove_partial(root: Path, keep: Collection[int] = ()) -> None:
    """Remove what never became a checkpoint, but for numbers that may still become one."""
    for number, directory in _directories(root):
        if number not in keep and not (directory / MANIFEST).is_file():
            shutil.rmtree(directory, ignore_errors=True)


# ------------------------------------------------------------------------------ reading


def committed(root: Path) -> list[Path]:
    """The directories of all checkpoints below a directory, ascending by number."""
    return [path for _, path in _directories(root) if (path / MANIFEST).is_file()]


def numbers_in(root: Path) -> list[int]:
    """The numbers that were ever begun below a directory and are not removed, ascending."""
    return [number for number, _ in _directories(root)]


def latest(root: Path) -> Path | None:
    """The directory of the newest checkpoint."""
    found = committed(root)
    return found[-1] if found else None


def read_manifest(checkpoint: Path) -> Manifest:
    """Read what a checkpoint consists of.

    Raises:
      JobError: it is not there, or not whole as far as names and sizes of its files tell.
    """
    path = checkpoint / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {MAX_MANIFEST_BYTES:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = _parse(content)
    except OSError as error:
        raise JobError(
            f"checkpoint '{checkpoint}': no readable {MANIFEST} ({error.strerror}); "
            "elasticdl checkpoints list shows which are whole"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise JobError(
            f"checkpoint '{checkpoint}': {MANIFEST} is damaged ({what}); use another one"
        ) from None
    for part in manifest.parts:
        for one in part["files"]:
            check_size(Directory(checkpoint), one["name"], one["bytes"])
    return manifest


def part_chains(checkpoint: Path, manifest: Manifest) -> Iterator[list[PlacedPart]]:
    """For each part: the parts it builds on, the whole one first, itself last.

    Raises:
      JobError: one of them is not there.
    """
    manifests = {manifest.number: manifest}
    for part in manifest.parts:
        placed = [PlacedPart(Directory(checkpoint), part)]
        while placed[0].base:
            base = placed[0].base
            directory = directory_of(checkpoint.parent, base)
            if base not in manifests:
                manifests[base] = read_manifest(directory)
            same = [one for one in manifests[base].parts if one["partition"] == part["partition"]]
            if len(same) != 1 or same[0]["incarnation"] != part["incarnation"]:
                raise JobError(
                    f"checkpoint '{checkpoint}': part {part['partition']} builds on one that "
                    f"'{directory}' does not have; use another one"
                )
            placed.insert(0, PlacedPart(Directory(directory), same[0]))
        yield placed


def verify(checkpoint: Path) -> list[str]:
    """Read everything a checkpoint consists of; return what is wrong, a line for each."""
    try:
        chains = list(part_chains(checkpoint, read_manifest(checkpoint)))
    except JobError as error:
        return [str(error)]
    placed = {(one.place, one.part["partition"]): one for chain in chains for one in chain}
    return [problem for one in placed.values() for problem in damages(one)]


def _directories(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    return sorted(
        (int(path.name), path)
        for path in root.iterdir()
        if len(path.name) >= _NUMBER_DIGITS
        and path.name.isascii()
        and path.name.isdigit()
        and path.is_dir()
    )


# ------------------------------------------------------------------------------ what it says


def _parse(content: Any) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"not of format {FORMAT}")
    manifest = Manifest(
        **{one.name: content[one.name] for one in fields(Manifest) if one.name != "chain"},
        chain=tuple(integers(content["chain"])),
    )
    for name in ("number", "entry", "steps", "routing_version"):
        integers([getattr(manifest, name)])
    integers(manifest.routing)
    if not isinstance(manifest.job_name, str) or not isinstance(manifest.model, str):
        raise TypeError("a name is no text")
    if not isinstance(manifest.time, int | float) or not isinstance(manifest.tasks, list):
        raise TypeError("time or tasks are of a wrong type")
    for part in manifest.parts:
        check_part(part, manifest.number)
    return manifest
