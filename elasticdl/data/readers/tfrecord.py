"""TFRecord files: frames of length, masked CRC-32C of it, bytes, and their masked CRC-32C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from elasticdl.data.readers import kernels
from elasticdl.data.readers.reader import check_range, identity, mapped
from elasticdl.data.schema import Column, Schema
from elasticdl.errors import DataError

_EVERY = 64
_LARGEST_COUNT = 1 << 62
_LEAST_FRAME_BYTES = kernels.HEADER_BYTES + kernels.FOOTER_BYTES

_WRONG = {
    kernels.SHORT_HEADER: "has fewer bytes left than a frame's header: truncated",
    kernels.WRONG_LENGTH_CRC: "has a length that does not fit its sum: not TFRecord, or corrupted",
    kernels.BEYOND_END: "claims more bytes than are left: truncated",
    kernels.TOO_LONG: "is longer than max_chunk_bytes",
    kernels.WRONG_DATA_CRC: "does not fit its sum: corrupted",
}


class TFRecordReader:
    """See `Reader`. The frames' headers are gone over once per process: every 64th is noted."""

    is_table = False

    def __init__(self, path: str, max_chunk_bytes: int) -> None:
        self.path = path
        self._max_record_bytes = max_chunk_bytes
        identity(path, "TFRecord")
        self._data = mapped(path, "TFRecord")
        self.num_records = self._index[0]

    @cached_property
    def _index(self) -> tuple[int, np.ndarray]:
        offsets = np.empty(len(self._data) // (_LEAST_FRAME_BYTES * _EVERY) + 2, np.int64)
        count = self._scan(0, 0, _LARGEST_COUNT, _EVERY, offsets, verify=False)
        return count, offsets[: -(-count // _EVERY)].copy()

    def schema(
        self, names: Sequence[str] | None = None, given: Mapping[str, Column] | None = None
    ) -> Schema:
        """Return no columns."""
        return ()

    def names(self) -> list[str]:
        """Return no names."""
        return []

    def read(self, start: int, end: int, schema: Schema | None = None) -> list[bytes]:
        """Return the records of a range, each compared with its sum."""
        check_range(self, start, end)
        if start == end:
            return []
        first = start // _EVERY * _EVERY
        skipped, count = start - first, end - start
        offsets = np.empty(max(skipped, count) + 1, np.int64)
        begin = int(self._index[1][first // _EVERY])
        if skipped:
            self._scan(first, begin, skipped + 1, 1, offsets, verify=False)
            begin = int(offsets[skipped])
        self._scan(start, begin, count, 1, offsets, verify=True)
        view = self._data.data
        records = []
        for offset in offsets[:count].tolist():
            size = int.from_bytes(view[offset : offset + 8], "little")
            records.append(bytes(view[offset + 12 : offset + 12 + size]))
        return records

    def _scan(
        self, record: int, offset: int, most: int, every: int, offsets: np.ndarray, verify: bool
    ) -> int:
        count, stopped_at, problem = kernels.scan_tfrecord(
            self._data, offset, most, self._max_record_bytes, every, offsets, verify
        )
        if problem != kernels.FINE:
            raise DataError(
                f"TFRecord file '{self.path}': record {record + count} at offset {stopped_at} "
                f"{_WRONG[problem]}; name a TFRecord file, or write it again"
            )
        return int(count)
