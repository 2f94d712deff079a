"""Arrow IPC files (Feather version 2) as data of a job, by record batches."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa

from elasticdl.data.filesystems import is_remote
from elasticdl.data.objects import open_object, unread
from elasticdl.data.readers.chunk_cache import CACHE
from elasticdl.data.readers.reader import check_range, identity
from elasticdl.data.readers.typed_columns import TypedColumns
from elasticdl.data.schema import Schema, conform
from elasticdl.errors import DataError

MAGIC = b"ARROW1"


class ArrowReader(TypedColumns):
    """See `Reader`. A local file is mapped: what is not compressed is not copied either.

    A compressed record batch is decompressed whole; those used last stay in memory.
    """

    def __init__(self, path: str, max_chunk_bytes: int) -> None:
        self.path = path
        self._max_chunk_bytes = max_chunk_bytes
        self._identity = identity(path, "Arrow")
        self._lock = threading.Lock()
        try:
            known = self._identity
            self._source = open_object(known) if is_remote(path) else pa.memory_map(path, "rb")
            self._file = pa.ipc.open_file(self._source)
            self.arrow_schema = self._file.schema
            # Of one column, so that counting decompresses little.
            options = pa.ipc.IpcReadOptions(included_fields=[0] if self.arrow_schema.names else [])
            counter = pa.ipc.open_file(self._source, options=options)
            counts = [counter.get_batch(i).num_rows for i in range(counter.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        self._first_rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self.num_records = int(self._first_rows[-1])

    @property
    def num_batches(self) -> int:
        """Record batches in the file."""
        return len(self._first_rows) - 1

    def read(self, start: int, end: int, schema: Schema | None = None) -> pa.Table:
        """Return the rows of a range."""
        schema = self.schema() if schema is None else schema
        return conform(self.read_native(start, end), schema, self.path)

    def read_native(self, start: int, end: int) -> pa.Table:
        """Return the rows of a range in the file's own types."""
        check_range(self, start, end)
        batches = []
        while start < end:
            number = int(np.searchsorted(self._first_rows, start, side="right")) - 1
            first, last = int(self._first_rows[number]), int(self._first_rows[number + 1])
            batches.append(self._batch(number).slice(start - first, min(last, end) - start))
            start = min(last, end)
        return pa.Table.from_batches(batches, self.arrow_schema)

    def _batch(self, number: int) -> pa.RecordBatch:
        return CACHE.get(
            (self._identity, number), lambda: self._load(number), self._max_chunk_bytes
        )

    def _load(self, number: int) -> tuple[pa.RecordBatch, int]:
        try:
            with self._lock:
                before = pa.total_allocated_bytes()
                batch = self._file.get_batch(number)
                copied = max(0, pa.total_allocated_bytes() - before)
                batch.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error, f" record batch {number}:") from error
        if copied > self._max_chunk_bytes:
            raise DataError(
                f"Arrow file '{self.path}': record batch {number} decompresses to more than "
                f"max_chunk_bytes={self._max_chunk_bytes}; write it again with smaller batches: "
                "elasticdl data convert does"
            )
        return batch, copied

    def _broken(self, why: Exception, where: str = "") -> DataError:
        right = "name an Arrow IPC file, or write it again"
        return unread(f"Arrow file '{self.path}':{where}", why, right)
