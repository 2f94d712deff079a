"""Reading a range of the records of a RecordIO file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedReader

from elasticdl.data.recordio.chunk import (
    DEFAULT_MAX_CHUNK_BYTES,
    BrokenChunkError,
    ChunkReader,
)
from elasticdl.data.recordio.index import Index, broken
from elasticdl.data.recordio.remote import RemoteChunks
from elasticdl.errors import DataError, UsageError


class Scanner:
    """Iterates over the records `start` to `start + count` of a file, as `bytes`.

    Chunks outside the range are skipped, not read. A chunk is verified before its first record is
    handed out. Like a slice, the range ends where the file does. Every iteration starts anew, and
    iterations are independent of each other.

    Args:
      path: the file.
      start: number of the first record, from 0.
      count: how many records; None for all to the end.
      max_chunk_bytes: the largest chunk accepted, stored or decompressed.

    Raises:
      UsageError: `start` or `count` is negative.
      DataError: the file is missing, truncated, corrupted or hostile; raised by the constructor for
        what the headers tell, while iterating for the rest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: int = 0,
        count: int | None = None,
        max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
    ) -> None:
        if start < 0:
            raise UsageError(f"start '{start}': negative; records are numbered from 0")
        if count is not None and count < 0:
            raise UsageError(f"count '{count}': negative; a number of records, or None for all")
        self.index = Index(path, max_chunk_bytes)
        num_records = self.index.num_records
        self.start = min(start, num_records)
        self.end = num_records if count is None else min(start + count, num_records)
        self.end = max(self.start, self.end)

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[bytes]:
        for records in self.batches():
            yield from records

    def batches(self) -> Iterator[list[bytes]]:
        """Iterate over the same records, some at a time: faster where records are small."""
        index = self.index
        if self.start == self.end:
            return
        with self._open() as file:
            reader = ChunkReader(file, index.max_chunk_bytes)
            for chunk in range(index.chunk_of(self.start), index.chunk_of(self.end - 1) + 1):
                offset = index.offset(chunk)
                record = index.first_record(chunk)
                try:
                    for records in reader.read(index.header(chunk), offset):
                        skip = max(self.start - record, 0)
                        keep = self.end - record
                        record += len(records)
                        if skip or keep < len(records):
                            records = records[skip:keep]
                        if records:
                            yield records
                        if record >= self.end:
                            return
                except BrokenChunkError as error:
                    raise broken(index.path, chunk, offset, error) from error
                except OSError as error:
                    raise broken(index.path, chunk, offset, f"is unreadable: {error}") from error

    def _open(self) -> BufferedReader | RemoteChunks:
        index = self.index
        if index.identity is not None:
            chunks = range(index.chunk_of(self.start), index.chunk_of(self.end - 1) + 2)
            bounds = [index.offset(one) for one in chunks if one < index.num_chunks]
            if chunks.stop > index.num_chunks:
                bounds.append(index.num_bytes)
            return RemoteChunks(index.identity, bounds)
        try:
            return open(index.path, "rb")
        except OSError as error:
            raise DataError(
                f"RecordIO file '{index.path}': {error.strerror}; name a readable file"
            ) from error


def read_range(
    path: str | os.PathLike[str],
    start: int,
    count: int,
    max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
) -> list[bytes]:
    """Return exactly `count` records from record `start` on.

    Raises:
      DataError: as `Scanner`, and when the file does not have all of them.
    """
    scanner = Scanner(path, start, count, max_chunk_bytes)
    if len(scanner) != count:
        raise DataError(
            f"RecordIO file '{scanner.index.path}': has {scanner.index.num_records} records, not "
            f"{start} to {start + count}; was it replaced by a shorter one?"
        )
    return [record for records in scanner.batches() for record in records]
