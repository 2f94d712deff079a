"""What every kind of place can do with files, and the files of this machine."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class FileInfo:
    """A file or an object, as it is now."""

    path: str
    size: int
    mtime_ns: int


class InputFile(Protocol):
    """An open file, or object. `read_at` is for any number of threads, the rest for one."""

    def read_at(self, nbytes: int, offset: int) -> bytes: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def size(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> Any: ...


class FileSystem(Protocol):
    """One kind of place. Safe for any number of threads; all may raise `OSError`, as said above."""

    def info(self, path: str) -> FileInfo | None:
        """Return what is known of a file; None where there is none of that name."""
        ...

    def files(self, directory: str) -> list[FileInfo]:
        """Return all files below a directory, at any depth, by path; none where it is not there."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Return the files that a pattern names (`*`, `?`, `[…]`, `**`), by path."""
        ...

    def open_input(self, path: str) -> InputFile:
        """Open a file to read any part of it; pyarrow takes it as a file."""
        ...

    def read(self, path: str) -> bytes:
        """Return all of a file."""
        ...

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Make or replace a file; it is there, durable, once this returns, and never in part."""
        ...

    def put_file(self, path: str, file: str | os.PathLike[str]) -> None:
        """Make or replace a file by a copy of a local one; never there in part."""
        ...

    def upload(self, directory: str | os.PathLike[str], path: str, last: str = "") -> None:
        """Put all files below a local directory below `path`, of them `last` after all others."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        ...

    def delete_directory(self, directory: str) -> None:
        """Delete all files below a directory, if there are any."""
        ...


class LocalFiles:
    """See `FileSystem`: the files of this machine, those of mounted volumes as well."""

    def info(self, path: str) -> FileInfo | None:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileInfo(path, status.st_size, status.st_mtime_ns)

    def files(self, directory: str) -> list[FileInfo]:
        found = [
            self.info(os.path.join(folder, name))
            for folder, _, names in os.walk(directory)
            for name in names
        ]
        return sorted((one for one in found if one is not None), key=lambda one: one.path)

    def glob(self, pattern: str) -> list[str]:
        return sorted(one for one in glob.glob(pattern, recursive=True) if os.path.isfile(one))

    def open_input(self, path: str) -> InputFile:
        return pa.OSFile(path, "rb")

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def put(self, path: str, data: bytes | memoryview) -> None:
        def write(temporary: str) -> None:
            with open(temporary, "wb") as file:
                file.write(data)

        self._replace(path, write)

    def put_file(self, path: str, file: str | os.PathLike[str]) -> None:
        self._replace(path, lambda temporary: shutil.copyfile(file, temporary))

    def _replace(self, path: str, write: Callable[[str], Any]) -> None:
        directory, name = os.path.split(path)
        os.makedirs(directory, exist_ok=True)
        temporary = os.path.join(directory, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync(directory)

    def upload(self, directory: str | os.PathLike[str], path: str, last: str = "") -> None:
        for file, name in tree(directory, last):
            self.put_file(os.path.join(path, name), file)

    def delete(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def delete_directory(self, directory: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)


def tree(directory: str | os.PathLike[str], last: str) -> list[tuple[Path, str]]:
    """Return the files below a directory with their names there, of them `last` at the end."""
    root = Path(directory)
    files = [(one, one.relative_to(root).as_posix()) for one in root.rglob("*") if one.is_file()]
    return sorted(files, key=lambda one: (one[1] == last, one[1]))


def _sync(path: str) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
