"""What every format's reader can do."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from elasticdl.data.filesystems import is_remote
from elasticdl.data.local_copies import local_file
from elasticdl.data.objects import Identity, object_identity
from elasticdl.data.schema import Column, Schema
from elasticdl.errors import DataError

Records: TypeAlias = "list[bytes] | pa.Table"
"""Records in their order: serialized, or the rows of a table. Both have a length."""


class Reader(Protocol):
    """One data file. Safe for any number of threads.

    Attributes:
      path: of the file.
      num_records: how many it has.
      is_table: whether it has columns; else its records are bytes.
    """

    path: str
    num_records: int
    is_table: bool

    def schema(
        self, names: Sequence[str] | None = None, given: Mapping[str, Column] | None = None
    ) -> Schema:
        """Return what columns the file gives; none where it is no table.

        Args:
          names: those wanted; all where None.
          given: types in place of the file's own.

        Raises:
          DataError: a column is of a type that no tensor can have.
        """
        ...

    def names(self) -> list[str]:
        """Return the names of its columns; none where it is no table."""
        ...

    def read(self, start: int, end: int, schema: Schema | None = None) -> Records:
        """Return the records of a range, of a table those columns in those types.

        Raises:
          DataError: the file is broken, or values do not fit their types.
        """
        ...


def identity(path: str, what: str) -> Identity:
    """Return what tells a file, or an object, from another one of its name, later.

    Raises:
      DataError: it is missing or no regular file.
    """
    if is_remote(path):
        return object_identity(path, what)
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{what} file '{path}': {error.strerror}; name a readable file") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{what} file '{path}': not a regular file; name a file")
    return os.path.abspath(path), status.st_ino, status.st_mtime_ns, status.st_size


def mapped(path: str, what: str) -> np.ndarray:
    """Return a file's bytes, read by the system when they are used, uint8 ``[size]``.

    Of an object those of a copy on this machine.

    Raises:
      DataError: it cannot be opened.
    """
    try:
        path = local_file(path)
        if not Path(path).stat().st_size:
            return np.empty(0, np.uint8)
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise DataError(f"{what} file '{path}': {error.strerror}; name a readable file") from error


def check_range(reader: Any, start: int, end: int) -> None:
    """Check that a file still has the records of a task.

    Raises:
      DataError: it does not.
    """
    if not 0 <= start <= end <= reader.num_records:
        raise DataError(
            f"'{reader.path}': has {reader.num_records} records, not {start} to {end}; "
            "was it replaced by a shorter one?"
        )
