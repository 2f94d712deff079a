"""RecordIO files that are objects of a store: as few requests as the format allows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from elasticdl.data.objects import Identity, opened
from elasticdl.data.recordio.chunk import HEADER_BYTES
from elasticdl.errors import DataError

_SMALL_CHUNK_BYTES = 1 << 20
_FIRST_BYTES = 64 << 10
_AHEAD_BYTES = 8 << 20


class RemoteHeaders:
    """Reads the headers of an object, from its first to its last.

    A large chunk costs a request of its own; small ones are read with what lies between.
    """

    def __init__(self, known: Identity) -> None:
        self._known = known
        self._start, self._data = 0, b""
        self._ahead = _FIRST_BYTES

    def read(self, offset: int) -> bytes:
        """Return a header, or what is left of the object there."""
        size = self._known[-1]
        if not self._start <= offset <= self._start + len(self._data) - HEADER_BYTES:
            passed = offset - self._start
            if self._data:
                self._ahead = _AHEAD_BYTES if passed < _SMALL_CHUNK_BYTES else HEADER_BYTES
            self._start = offset
            self._data = read_part(self._known, offset, min(self._ahead, size - offset))
        begin = offset - self._start
        return self._data[begin : begin + HEADER_BYTES]


class RemoteChunks:
    """Stands for an open file where `ChunkReader` reads: a request for a large chunk or some small.

    Args:
      known: the object.
      bounds: where the chunks that are wanted begin, ascending, and where the last one ends.
    """

    def __init__(self, known: Identity, bounds: Sequence[int]) -> None:
        self._known = known
        self._bounds = bounds
        self._start, self._data = 0, memoryview(b"")
        self._position = 0

    def seek(self, offset: int) -> None:
        """Go to the chunk at an offset."""
        self._position = offset - self._start
        if not 0 <= self._position < len(self._data):
            chunk = bisect_left(self._bounds, offset)
            last = bisect_right(self._bounds, offset + _AHEAD_BYTES) - 1
            end = self._bounds[max(chunk + 1, last)]
            data = read_part(self._known, offset, end - offset)
            self._start, self._data, self._position = offset, memoryview(data), 0

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes."""
        part = self._data[self._position : self._position + num_bytes]
        self._position += len(part)
        return bytes(part)

    def readinto(self, target: memoryview) -> int:
        """Copy the next bytes; return how many there were."""
        part = self._data[self._position : self._position + len(target)]
        target[: len(part)] = part
        self._position += len(part)
        return len(part)

    def __enter__(self) -> RemoteChunks:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.release()


def read_part(known: Identity, offset: int, num_bytes: int) -> bytes:
    """Return bytes of an object.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return opened(known).read_at(num_bytes, offset)
    except OSError as error:
        raise DataError(f"RecordIO file '{known[0]}': {error.strerror or error}") from error
