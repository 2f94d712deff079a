"""RecordIO files as data of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from elasticdl.data.readers.chunk_cache import CACHE
from elasticdl.data.readers.reader import check_range, identity
from elasticdl.data.recordio import Index, read_range
from elasticdl.data.schema import Column, Schema

MAGIC = b"\x04\x03\x02\x01"
_OBJECT_BYTES = 48


class RecordIOReader:
    """See `Reader`. A chunk of which a task has a part stays in memory for the next task."""

    is_table = False

    def __init__(self, path: str, max_chunk_bytes: int) -> None:
        self.path = path
        self._max_chunk_bytes = max_chunk_bytes
        self._index = Index(path, max_chunk_bytes)
        self._identity = identity(path, "RecordIO")
        self.num_records = self._index.num_records

    def schema(
        self, names: Sequence[str] | None = None, given: Mapping[str, Column] | None = None
    ) -> Schema:
        """Return no columns."""
        return ()

    def names(self) -> list[str]:
        """Return no names."""
        return []

    def read(self, start: int, end: int, schema: Schema | None = None) -> list[bytes]:
        """Return the records of a range."""
        check_range(self, start, end)
        records: list[bytes] = []
        index = self._index
        while start < end:
            chunk = index.chunk_of(start)
            first, last = index.first_record(chunk), index.first_record(chunk + 1)
            if start == first and last <= end:
                # Whole chunks at once.
                last = index.first_record(index.chunk_of(end))
                records += read_range(self.path, start, last - start, self._max_chunk_bytes)
            else:
                of_chunk = CACHE.get(
                    (self._identity, chunk),
                    lambda first=first, last=last: self._load(first, last),  # type: ignore[misc]
                    self._max_chunk_bytes,
                )
                records += of_chunk[start - first : end - first]
            start = min(last, end)
        return records

    def _load(self, first: int, last: int) -> tuple[list[bytes], int]:
        records = read_range(self.path, first, last - first, self._max_chunk_bytes)
        return records, sum(map(len, records)) + _OBJECT_BYTES * len(records)
