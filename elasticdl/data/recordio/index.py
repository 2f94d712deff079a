"""Where the records of a RecordIO file are, known from the chunk headers alone."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from elasticdl.data.filesystems import is_remote
from elasticdl.data.objects import Identity, object_identity
from elasticdl.data.recordio.chunk import (
    DEFAULT_MAX_CHUNK_BYTES,
    HEADER_BYTES,
    BrokenChunkError,
    Header,
)
from elasticdl.data.recordio.remote import RemoteHeaders
from elasticdl.errors import DataError, UsageError


class _Chunks(NamedTuple):
    """All chunks of a file; read-only, shared between the indexes of that file."""

    num_bytes: int
    offsets: np.ndarray  # int64 [chunks], of the header
    headers: bytes  # HEADER_BYTES each
    first_records: np.ndarray  # int64 [chunks + 1]


class Index:
    """The chunks of a RecordIO file, or object, and the numbers of their records.

    Reads the headers only, and those once per process: cached by path, inode, modification time
    and size. Immutable, safe for any number of threads.

    Args:
      path: the file.
      max_chunk_bytes: the largest chunk accepted, stored or decompressed.

    Raises:
      DataError: no such file, not a file, or its headers are not those of a RecordIO file.
    """

    def __init__(
        self, path: str | os.PathLike[str], max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES
    ) -> None:
        if max_chunk_bytes < 1:
            raise UsageError(
                f"max_chunk_bytes '{max_chunk_bytes}': not a size; a positive number of bytes"
            )
        self.path = os.fspath(path)
        self.max_chunk_bytes = max_chunk_bytes
        self.identity: Identity | None = None
        if is_remote(self.path):
            self.identity = object_identity(self.path, "RecordIO")
            self._chunks = _read_chunks_of_object(self.identity, max_chunk_bytes)
            return
        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"RecordIO file '{self.path}': not a regular file; name a file")
            absolute = os.path.abspath(self.path)
            self._chunks = _read_chunks(
                absolute, (status.st_ino, status.st_mtime_ns), status.st_size, max_chunk_bytes
            )
        except OSError as error:
            raise DataError(
                f"RecordIO file '{self.path}': {error.strerror}; name a readable file"
            ) from error

    @property
    def num_records(self) -> int:
        """Records in the file."""
        return int(self._chunks.first_records[-1])

    @property
    def num_chunks(self) -> int:
        """Chunks in the file."""
        return len(self._chunks.offsets)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._chunks.num_bytes

    @property
    def records_per_chunk(self) -> np.ndarray:
        """Number of records of each chunk, int64 ``[num_chunks]``."""
        return np.diff(self._chunks.first_records)

    def __len__(self) -> int:
        return self.num_records

    def first_record(self, chunk: int) -> int:
        """Return the number of the first record of a chunk."""
        return int(self._chunks.first_records[chunk])

    def chunk_of(self, record: int) -> int:
        """Return the chunk that holds a record; `num_chunks` for `num_records` and beyond."""
        return int(np.searchsorted(self._chunks.first_records, record, side="right")) - 1

    def offset(self, chunk: int) -> int:
        """Return where in the file a chunk's header starts."""
        return int(self._chunks.offsets[chunk])

    def header(self, chunk: int) -> Header:
        """Return the header of a chunk."""
        start = chunk * HEADER_BYTES
        return Header.unpack(self._chunks.headers[start : start + HEADER_BYTES])


def broken(path: str, chunk: int, offset: int, why: object) -> DataError:
    """Return the error that names file, chunk and offset."""
    return DataError(
        f"RecordIO file '{path}': chunk {chunk} at offset {offset} {why}; "
        "name a RecordIO file, or write it again"
    )


@lru_cache(maxsize=4096)
def _read_chunks(
    path: str, identity: tuple[int, int], num_bytes: int, max_chunk_bytes: int
) -> _Chunks:
    del identity  # part of the cache's key
    with open(path, "rb", buffering=0) as file:
        return _follow(
            path,
            lambda offset: os.pread(file.fileno(), HEADER_BYTES, offset),
            num_bytes,
            max_chunk_bytes,
        )


@lru_cache(maxsize=4096)
def _read_chunks_of_object(identity: Identity, max_chunk_bytes: int) -> _Chunks:
    path, *_, num_bytes = identity
    return _follow(path, RemoteHeaders(identity).read, num_bytes, max_chunk_bytes)


def _follow(
    path: str, read_header: Callable[[int], bytes], num_bytes: int, max_chunk_bytes: int
) -> _Chunks:
    """Go from header to header."""
    offsets = array("q")
    headers = bytearray()
    counts = array("q", [0])
    offset = 0
    while offset < num_bytes:
        data = read_header(offset)
        try:
            if len(data) < HEADER_BYTES:
                raise BrokenChunkError(
                    f"has {len(data)} bytes of its {HEADER_BYTES}-byte header: truncated"
                )
            header = Header.unpack(data)
            header.check(num_bytes - offset - HEADER_BYTES, max_chunk_bytes)
        except BrokenChunkError as error:
            raise broken(path, len(offsets), offset, error) from error
        offsets.append(offset)
        headers += data
        counts.append(header.num_records)
        offset += HEADER_BYTES + header.compressed_bytes
    first_records = np.cumsum(np.frombuffer(counts, np.int64))
    return _Chunks(num_bytes, np.frombuffer(offsets, np.int64), bytes(headers), first_records)
