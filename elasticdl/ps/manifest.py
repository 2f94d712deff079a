"""Which checkpoints are there, what each consists of, and whether it is whole.

A checkpoint is the directory ``ROOT/<number, ten digits>``. It is there once its ``manifest.json``
is, which is renamed into place after everything it names was synced. Where ``ROOT`` is the URI of a
store, the manifest is one object, put after all others; what has to be a path of this machine
otherwise is a text then.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from elasticdl.errors import JobError
from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.part_files import (
    PlacedPart,
    check_part,
    check_size,
    damages,
    directory_at,
    integers,
    is_remote,
    sync_directory,
)

if TYPE_CHECKING:
    from elasticdl.data.filesystems import FileSystem

Where = TypeVar("Where", str, Path)
"""A directory: a path, or the URI of one at a store, which is a text."""

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


def directory_of(root: Where, number: int) -> Where:
    """The directory of a checkpoint."""
    name = f"{number:0{_NUMBER_DIGITS}d}"
    return root / name if isinstance(root, Path) else f"{root.rstrip('/')}/{name}"


def number_of(checkpoint: str | Path) -> int:
    """The number of a checkpoint, by its directory's name; 0 where that says none."""
    name = os.path.basename(str(checkpoint).rstrip("/"))
    return int(name) if _is_number(name) else 0


def closed_in_all(parts: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, int], ...]:
    """The tasks that every group of every part has closed, as half-open intervals."""
    sets = [IntervalSet.of(part["closed"]) for part in parts]
    closed = sets[0] if sets else IntervalSet()
    for one in sets[1:]:
        closed = closed & one
    return tuple(closed.intervals)


def chain_of(root: str | Path, number: int, parts: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The numbers a checkpoint of these parts builds on, oldest first, itself last.

    Raises:
      JobError: one of them is not there.
    """
    numbers = {number}
    for base in {int(part["base"]) for part in parts} - {0}:
        numbers.update(read_manifest(directory_of(str(root), base)).chain)
    return tuple(sorted(numbers))


# ------------------------------------------------------------------------------ writing


def begin(root: Where, number: int) -> Where:
    """Make the directory of a checkpoint that is to be written, and return it.

    Raises:
      OSError: it cannot be made.
    """
    directory = directory_of(root, number)
    if not is_remote(directory):
        Path(directory).mkdir(parents=True, exist_ok=True)
    return directory


def write_manifest(root: Where, manifest: Manifest) -> Where:
    """Commit a checkpoint whose parts are written; return its directory.

    Raises:
      JobError: it cannot be written; the checkpoint is not there.
      ConnectionError: a store does not answer; it may be there, now or later, and is whole then.
    """
    directory = directory_of(root, manifest.number)
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
    try:
        if is_remote(directory):
            files, path = _at_store(str(directory))
            files.put(f"{path}/{MANIFEST}", text)
        else:
            _rename_into(Path(directory), text)
    except ConnectionError:
        raise
    except OSError as error:
        raise JobError(f"checkpoint '{directory}': cannot be written ({error.strerror})") from error
    return directory


def _rename_into(directory: Path, text: bytes) -> None:
    temporary = directory / f".{MANIFEST}.tmp"
    sync_directory(directory)
    with open(temporary, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / MANIFEST)
    sync_directory(directory)
    sync_directory(directory.parent)


def remove(root: str | Path, numbers: Collection[int]) -> None:
    """Remove checkpoints; one that is removed half way is not there any more.

    Raises:
      OSError: one is there as it was.
    """
    for number in numbers:
        directory = directory_of(str(root), number)
        if is_remote(directory):
            files, path = _at_store(directory)
            files.delete(f"{path}/{MANIFEST}")
            files.delete_directory(path)
        else:
            Path(directory, MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)


def remove_partial(root: str | Path, keep: Collection[int] = ()) -> None:
    """Remove what never became a checkpoint, but for numbers that may still become one.

    Raises:
      OSError: a store cannot be asked.
    """
    numbers = [one for one, is_whole in _found(root) if not is_whole and one not in keep]
    remove(root, numbers)


# ------------------------------------------------------------------------------ reading


def committed(root: Where) -> list[Where]:
    """The directories of all checkpoints below a directory, ascending by number."""
    return [directory_of(root, number) for number, is_whole in _found(root) if is_whole]


def numbers_in(root: str | Path) -> list[int]:
    """The numbers that were ever begun below a directory and are not removed, ascending."""
    return [number for number, _ in _found(root)]


def latest(root: Where) -> Where | None:
    """The directory of the newest checkpoint."""
    found = committed(root)
    return found[-1] if found else None


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory is that of a checkpoint."""
    if is_remote(directory):
        files, path = _at_store(str(directory))
        return files.info(f"{path}/{MANIFEST}") is not None
    return (Path(directory) / MANIFEST).is_file()


def read_manifest(checkpoint: str | Path, patience_s: float | None = 0.0) -> Manifest:
    """Read what a checkpoint consists of.

    Args:
      patience_s: for how long a store may be silent; None: as long as this process waits.

    Raises:
      JobError: it is not there, or not whole as far as names and sizes of its files tell.
      ConnectionError: a store does not answer, which says nothing of it.
    """
    place = directory_at(checkpoint, patience_s)
    try:
        if place.size(MANIFEST) > MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {MAX_MANIFEST_BYTES:,} bytes")
        content = json.loads(b"".join(bytes(block) for block in place.blocks(MANIFEST)))
        manifest = _parse(content)
    except ConnectionError:
        raise
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
            check_size(place, one["name"], one["bytes"])
    return manifest


def part_chains(checkpoint: str | Path, manifest: Manifest) -> Iterator[list[PlacedPart]]:
    """For each part: the parts it builds on, the whole one first, itself last.

    Raises:
      JobError: one of them is not there.
    """
    manifests = {manifest.number: manifest}
    root = os.path.dirname(str(checkpoint).rstrip("/")) or os.curdir
    for part in manifest.parts:
        placed = [PlacedPart(directory_at(checkpoint), part)]
        while placed[0].base:
            base = placed[0].base
            directory = directory_of(root, base)
            if base not in manifests:
                manifests[base] = read_manifest(directory)
            same = [one for one in manifests[base].parts if one["partition"] == part["partition"]]
            if len(same) != 1 or same[0]["incarnation"] != part["incarnation"]:
                raise JobError(
                    f"checkpoint '{checkpoint}': part {part['partition']} builds on one that "
                    f"'{directory}' does not have; use another one"
                )
            placed.insert(0, PlacedPart(directory_at(directory), same[0]))
        yield placed


def verify(checkpoint: str | Path) -> list[str]:
    """Read everything a checkpoint consists of; return what is wrong, a line for each.

    Raises:
      ConnectionError: a store does not answer, which says nothing of it.
    """
    try:
        chains = list(part_chains(checkpoint, read_manifest(checkpoint)))
    except JobError as error:
        return [str(error)]
    placed = {(one.place, one.part["partition"]): one for chain in chains for one in chain}
    return [problem for one in placed.values() for problem in damages(one)]


def _found(root: str | Path) -> list[tuple[int, bool]]:
    """The numbers of what is below a directory, ascending, and whether each is a checkpoint."""
    if is_remote(root):
        files, path = _at_store(str(root))
        parts = [one.path[len(path) + 1 :].split("/") for one in files.files(path)]
        inside = [one for one in parts if len(one) > 1 and _is_number(one[0])]
        whole = {int(one[0]) for one in inside if one[1:] == [MANIFEST]}
        return [(number, number in whole) for number in sorted({int(one[0]) for one in inside})]
    if not Path(root).is_dir():
        return []
    return sorted(
        (int(path.name), (path / MANIFEST).is_file())
        for path in Path(root).iterdir()
        if _is_number(path.name) and path.is_dir()
    )


def _is_number(name: str) -> bool:
    return len(name) >= _NUMBER_DIGITS and name.isascii() and name.isdigit()


def _at_store(directory: str) -> tuple[FileSystem, str]:
    """What reads and writes below a URI, at once or not at all, and the URI for it."""
    from elasticdl.data.filesystems import file_system

    return file_system(directory, patience_s=0.0)


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
