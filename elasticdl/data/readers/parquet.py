"""Parquet files as data of a job, by row groups."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from elasticdl.data.filesystems import is_remote
from elasticdl.data.objects import open_object, unread
from elasticdl.data.readers.chunk_cache import CACHE
from elasticdl.data.readers.reader import check_range, identity
from elasticdl.data.readers.typed_columns import TypedColumns
from elasticdl.data.schema import Schema, conform
from elasticdl.errors import DataError

MAGIC = b"PAR1"
_ROWS_AT_ONCE = 1 << 16


class ParquetReader(TypedColumns):
    """See `Reader`. Reads whole row groups, one at a time, and only the columns asked for.

    Row groups read last stay in memory, up to `max_chunk_bytes`, for the next task.
    """

    def __init__(self, path: str, max_chunk_bytes: int) -> None:
        self.path = path
        self._max_chunk_bytes = max_chunk_bytes
        self._identity = identity(path, "Parquet")
        self._lock = threading.Lock()
        try:
            if is_remote(path):
                source = open_object(self._identity)
                self._file = pq.ParquetFile(source, pre_buffer=True)
            else:
                self._file = pq.ParquetFile(path, memory_map=True)
            self.arrow_schema = self._file.schema_arrow
            self.metadata = self._file.metadata
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        counts = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        self._first_rows = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.num_records = int(self._first_rows[-1])

    def read(self, start: int, end: int, schema: Schema | None = None) -> pa.Table:
        """Return the rows of a range."""
        schema = self.schema() if schema is None else schema
        names = [column.name for column in schema]
        for name in names:
            if name not in self.arrow_schema.names:
                raise DataError(
                    f"'{self.path}': has no column '{name}'; "
                    f"it has {', '.join(self.arrow_schema.names)}"
                )
        return conform(self.read_native(start, end, names), schema, self.path)

    def read_native(self, start: int, end: int, names: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a range, of some columns, in the file's own types."""
        check_range(self, start, end)
        names = self.names() if names is None else list(names)
        parts = []
        while start < end:
            group = int(np.searchsorted(self._first_rows, start, side="right")) - 1
            first, last = int(self._first_rows[group]), int(self._first_rows[group + 1])
            parts.append(self._row_group(group, names).slice(start - first, min(last, end) - start))
            start = min(last, end)
        if not parts:
            return self.arrow_schema.empty_table().select(names)
        return pa.concat_tables(parts, promote_options="permissive")

    def _row_group(self, group: int, names: list[str]) -> pa.Table:
        return CACHE.get(
            (self._identity, group, tuple(names)),
            lambda: self._load(group, names),
            self._max_chunk_bytes,
        )

    def _load(self, group: int, names: list[str]) -> tuple[pa.Table, int]:
        self._check_claim(group, names)
        try:
            with self._lock:
                batches, num_bytes = self._batches(group, names)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error, f" row group {group}:") from error
        if sum(map(len, batches)) != self._first_rows[group + 1] - self._first_rows[group]:
            short = ValueError("fewer rows than the footer says")
            raise self._broken(short, f" row group {group}:")
        return pa.Table.from_batches(batches).select(names), num_bytes

    def _batches(self, group: int, names: list[str]) -> tuple[list[pa.RecordBatch], int]:
        batches, num_bytes = [], 0
        # Some rows at a time: what a hostile file unfolds to is noticed on the way.
        for batch in self._file.iter_batches(
            _ROWS_AT_ONCE, row_groups=[group], columns=names, use_threads=False
        ):
            num_bytes += batch.nbytes
            if num_bytes > self._max_chunk_bytes:
                raise self._too_large(group)
            batches.append(batch)
        return batches, num_bytes

    def _check_claim(self, group: int, names: list[str]) -> None:
        about = self.metadata.row_group(group)
        columns = [about.column(index) for index in range(about.num_columns)]
        wanted = set(names)
        claimed = sum(
            each.total_uncompressed_size
            for each in columns
            if each.path_in_schema.partition(".")[0] in wanted or each.path_in_schema in wanted
        )
        if claimed > self._max_chunk_bytes:
            raise self._too_large(group)

    def _too_large(self, group: int) -> DataError:
        return DataError(
            f"Parquet file '{self.path}': row group {group} has more than "
            f"max_chunk_bytes={self._max_chunk_bytes}; read fewer columns with --columns, or write "
            "it again with smaller row groups: elasticdl data convert does"
        )

    def _broken(self, why: Exception, where: str = "") -> DataError:
        right = "name a Parquet file, or write it again"
        return unread(f"Parquet file '{self.path}':{where}", why, right)
