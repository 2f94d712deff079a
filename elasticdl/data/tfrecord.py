"""Writing TFRecord files; `elasticdl.data.readers.tfrecord` reads them."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from elasticdl.data.atomic_file import atomic_file
from elasticdl.data.readers.kernels import masked_crc32c


class TFRecordWriter:
    """Writes records to a file that appears, whole, when the writer is closed.

    Use it as a context manager: an exception in the block leaves what was at `path` as it was.

    Args:
      path: the file; replaced if there is one.

    Raises:
      UsageError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._resources = ExitStack()
        temporary = self._resources.enter_context(atomic_file(path))
        self._file = self._resources.enter_context(temporary.open("wb"))

    def write(self, record: bytes) -> None:
        """Add a record."""
        length = struct.pack("<Q", len(record))
        self._file.write(length + _sum(length) + record + _sum(record))

    def close(self) -> None:
        """Put the file in its place. Closing again does nothing."""
        self._resources.close()

    def __enter__(self) -> TFRecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.__exit__(kind, error, traceback)


def _sum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(np.frombuffer(data, np.uint8), 0, len(data)))
