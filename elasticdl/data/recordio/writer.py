"""Writing a RecordIO file."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType

from elasticdl.data.atomic_file import atomic_file
from elasticdl.data.recordio.chunk import Compressor, pack_chunk
from elasticdl.errors import UsageError

DEFAULT_CHUNK_BYTES = 32 << 20
_MAX_RECORD_BYTES = (1 << 32) - 1 - 4


class Writer:
    """Writes records to a file that appears, whole, when the writer is closed.

    A chunk is full when one more record would bring the bytes of its records, their lengths not
    counted, above `chunk_bytes`; a larger record gets a chunk of its own. Without compression the
    file is byte for byte what the Go implementation writes.

    Use it as a context manager: an exception in the block leaves what was at `path` as it was.
    Not safe for several threads.

    Args:
      path: the file; replaced if there is one.
      compressor: "none", "snappy" (the default) or "gzip".
      chunk_bytes: bytes of records in a chunk before compression.

    Raises:
      UsageError: an argument is wrong, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        compressor: Compressor | str = Compressor.SNAPPY,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        if not 0 < chunk_bytes < 1 << 31:
            raise UsageError(f"chunk_bytes '{chunk_bytes}': out of range; from 1 byte to 2 GiB")
        self.path = os.fspath(path)
        self.num_records = 0
        self._compressor = Compressor.parse(compressor)
        self._chunk_bytes = chunk_bytes
        self._records: list[bytes] = []
        self._pending_bytes = 0
        self._resources = ExitStack()
        temporary = self._resources.enter_context(atomic_file(self.path))
        self._file = self._resources.enter_context(temporary.open("wb"))

    def write(self, record: bytes | bytearray | memoryview) -> None:
        """Add a record.

        Raises:
          TypeError: it is not bytes.
          UsageError: it is longer than the format can say (4 GiB).
          ValueError: the writer is closed.
        """
        if self._file.closed:
            raise ValueError("write to a closed RecordIO writer")
        if not isinstance(record, bytes):
            record = bytes(memoryview(record))
        if len(record) > _MAX_RECORD_BYTES:
            raise UsageError(
                f"record {self.num_records} of '{self.path}': {len(record)} bytes; at most 4 GiB"
            )
        if self._pending_bytes + len(record) > self._chunk_bytes:
            self._flush()
        self._records.append(record)
        self._pending_bytes += len(record)
        self.num_records += 1

    def close(self) -> None:
        """Write what is pending and put the file in its place. Closing again does nothing."""
        self._close(None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(error)

    def _flush(self) -> None:
        if self._records:
            self._file.write(pack_chunk(self._records, self._compressor))
            self._records = []
            self._pending_bytes = 0

    def _close(self, error: BaseException | None) -> None:
        if self._file.closed:
            return
        if error is not None:
            self._resources.__exit__(type(error), error, error.__traceback__)
            return
        with self._resources:
            self._flush()
