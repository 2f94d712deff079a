"""The files of a partition's part: what describes them, where they lie, and whether they are whole.

Those of a checkpoint lie in its directory, or are objects of a store; those of a copy in memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from elasticdl.errors import JobError
from elasticdl.ps.interval_set import IntervalSet

if TYPE_CHECKING:
    import pyarrow as pa

    from elasticdl.data.filesystems import FileSystem, InputFile

_HASHED_AT_ONCE = 1 << 20
_FLUSHED_AT_ONCE = 32 << 20
_READ_AT_ONCE = 8 << 20


class Place(Protocol):
    """Where files of parts lie; as text it begins what is wrong with one of them."""

    def size(self, name: str) -> int:
        """Bytes of a file; OSError where it is not there."""
        ...

    def blocks(self, name: str) -> Iterator[memoryview]:
        """All of a file, bit by bit; use up each before the next."""
        ...

    def open(self, name: str) -> Any:
        """A file, for Arrow to read."""
        ...


class Sink(Protocol):
    """What a file is written to."""

    def write(self, data: memoryview) -> int:
        """Take bytes from the start of `data`; return how many."""
        ...


class Destination(Protocol):
    """Where the files of a part are written."""

    def create(self, name: str) -> AbstractContextManager[Sink]:
        """Begin a file; it is there for good when the context ends."""
        ...

    def finish(self) -> None:
        """All files are written."""
        ...

    def remove(self, name: str) -> None:
        """Take back a file that was begun."""
        ...


class _Flushed:
    """A file whose disk is kept busy while it is written, instead of at the end alone."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._num_bytes = 0
        self._num_flushed = 0

    def write(self, data: memoryview) -> int:
        count = self._file.write(data)
        self._num_bytes += count
        start, length = self._num_flushed, self._num_bytes - self._num_flushed
        if length >= _FLUSHED_AT_ONCE and hasattr(os, "posix_fadvise"):
            # Linux begins to write such pages to the disk, and does not wait for it.
            os.posix_fadvise(self._file.fileno(), start, length, os.POSIX_FADV_DONTNEED)
            self._num_flushed = self._num_bytes
        return count


@dataclass(frozen=True)
class Directory:
    """The directory of a checkpoint: a place and a destination; what is written is synced."""

    path: Path

    def __str__(self) -> str:
        return f"checkpoint '{self.path}'"

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def blocks(self, name: str) -> Iterator[memoryview]:
        # Into the same memory each time: fresh memory takes longer than hashing it.
        memory = memoryview(bytearray(_HASHED_AT_ONCE))
        with open(self.path / name, "rb", buffering=0) as file:
            while count := file.readinto(memory):
                yield memory[:count]

    def open(self, name: str) -> pa.NativeFile:
        import pyarrow as pa

        # Not mapped: what the disk cannot read would end the process, and not be an error.
        return pa.OSFile(str(self.path / name))

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        with open(self.path / name, "wb", buffering=0) as file:
            yield _Flushed(file)
            os.fsync(file.fileno())

    def finish(self) -> None:
        sync_directory(self.path)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class ObjectDirectory:
    """The same of a checkpoint whose files are objects: each is there once it is whole.

    path: URI. patience_s: for how long what is read is waited for where the store is silent; None:
    as long as this process waits. What is written is not waited for: the checkpoint is given up,
    and the next one comes.
    """

    path: str
    patience_s: float | None = None

    def __str__(self) -> str:
        return f"checkpoint '{self.path}'"

    def _files(self, patience_s: float | None) -> FileSystem:
        from elasticdl.data.filesystems import file_system

        return file_system(self.path, patience_s)[0]

    def size(self, name: str) -> int:
        found = self._files(self.patience_s).info(f"{self.path}/{name}")
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found.size

    def blocks(self, name: str) -> Iterator[memoryview]:
        with self.open(name) as file:
            while block := file.read(_READ_AT_ONCE):
                yield memoryview(block)

    def open(self, name: str) -> InputFile:
        return self._files(self.patience_s).open_input(f"{self.path}/{name}")

    def create(self, name: str) -> AbstractContextManager[Sink]:
        from elasticdl.data.object_stores import ObjectStore

        files = self._files(0.0)
        assert isinstance(files, ObjectStore)
        return files.create(f"{self.path}/{name}")

    def finish(self) -> None:
        """Each file is there for good already."""

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._files(0.0).delete(f"{self.path}/{name}")


def directory_at(path: str | Path, patience_s: float | None = None) -> Directory | ObjectDirectory:
    """The directory of a checkpoint: of this machine, or at a store."""
    if is_remote(path):
        return ObjectDirectory(str(path).rstrip("/"), patience_s)
    return Directory(Path(path))


def is_remote(path: str | Path) -> bool:
    """Whether files lie at a store, and not on this machine."""
    return "://" in str(path)


@dataclass(frozen=True)
class Memory:
    """Files in memory, by name.

    name: what they are, for messages.
    """

    name: str
    files: Mapping[str, bytes | bytearray]

    def __str__(self) -> str:
        return self.name

    def size(self, name: str) -> int:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return len(self.files[name])

    def blocks(self, name: str) -> Iterator[memoryview]:
        yield memoryview(self.files[name])

    def open(self, name: str) -> pa.NativeFile:
        import pyarrow as pa

        return pa.BufferReader(self.files[name])


@dataclass(frozen=True)
class PartFile:
    """One file of a part."""

    place: Place
    name: str

    def open(self) -> Any:
        """Open it for Arrow to read."""
        return self.place.open(self.name)


@dataclass(frozen=True)
class PlacedPart:
    """A part, and the place of its files.

    part: its entry, as `Manifest` tells.
    """

    place: Place
    part: Mapping[str, Any]

    @property
    def base(self) -> int:
        """The number of the part its changes are of; 0 where it is whole."""
        return int(self.part["base"])

    def files(self, kind: str, table: str | None = None) -> list[PartFile]:
        """The files of one kind (and table)."""
        return [
            PartFile(self.place, one["name"])
            for one in self.part["files"]
            if one["kind"] == kind and table in (None, one["table"])
        ]


def damages(placed: PlacedPart, kind: str | None = None) -> list[str]:
    """Read the files of one part, or those of one kind; return what is wrong, a line for each.

    Raises:
      ConnectionError: a store does not answer, which says nothing of its files.
    """
    problems = []
    for one in placed.part["files"]:
        if kind not in (None, one["kind"]):
            continue
        name = one["name"]
        try:
            check_size(placed.place, name, one["bytes"])
            digest = hashlib.sha256()
            for block in placed.place.blocks(name):
                digest.update(block)
            if digest.hexdigest() != one["sha256"]:
                raise JobError(f"{placed.place}: {name} is damaged: its SHA-256 is not the "
                               "manifest's; use another one")  # fmt: skip
        except ConnectionError:
            raise
        except OSError as error:
            problems.append(f"{placed.place}: {name}: {error.strerror}")
        except JobError as error:
            problems.append(str(error))
    return problems


def check_size(place: Place, name: str, num_bytes: int) -> None:
    """Raise JobError unless a file is there, with so many bytes; ConnectionError as `damages`."""
    try:
        found = place.size(name)
    except ConnectionError:
        raise
    except OSError as error:
        raise JobError(f"{place}: {name} is missing ({error.strerror}); use another one") from None
    if found != num_bytes:
        raise JobError(f"{place}: {name} has {found:,} bytes, not {num_bytes:,}; use another one")


def check_part(part: Any, number: int) -> None:
    """Check the entry of a part.

    Raises:
      ValueError: a value is out of range.
      TypeError: one is of another type.
      KeyError: one is missing.
    """
    base, _, of, _ = integers([part[n] for n in ("base", "version", "number", "partition")])
    if of != number or base >= number or part["incarnation"] < 0:
        raise ValueError("a part of another checkpoint")
    integers(part["groups"])
    IntervalSet.of(integers(part["closed"]))
    for one in part["files"]:
        integers([one["bytes"], one["rows"]])
        name = one["name"]
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
            raise ValueError(f"a file is named {name!r}")
        if not all(isinstance(one[key], str) for key in ("kind", "table", "sha256")):
            raise TypeError("a file is described wrongly")


def integers(values: Any) -> list[int]:
    """Return a list of numbers from 0 on; TypeError if it is something else."""
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 1 << 63 for v in values):
        raise TypeError("a number is none, or out of range")
    return values


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
