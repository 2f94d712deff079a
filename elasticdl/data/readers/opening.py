"""Which format a file has, and its reader: one per file and process."""

from __future__ import annotations

import os
import struct
from functools import lru_cache

from elasticdl.data.filesystems import is_remote
from elasticdl.data.objects import Identity, opened
from elasticdl.data.readers import arrow, parquet, recordio
from elasticdl.data.readers.reader import Reader, identity
from elasticdl.data.recordio import DEFAULT_MAX_CHUNK_BYTES
from elasticdl.errors import DataError

FORMATS = ("recordio", "tfrecord", "parquet", "csv", "arrow")

_SUFFIXES = {
    ".recordio": "recordio",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_GZIP_MAGIC = b"\x1f\x8b"
_FEATHER_1_MAGIC = b"FEA1"
_ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"
_HEAD_BYTES = 16
_CSV_LINE_BYTES = 1 << 16


def open_reader(
    path: str,
    max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
    file_format: str | None = None,
) -> Reader:
    """Return the reader of a file; the same one as long as the file is the same.

    Args:
      path: the file.
      max_chunk_bytes: the largest chunk, row group, record batch or record accepted.
      file_format: one of `FORMATS`; None finds out.

    Raises:
      DataError: it is missing, broken, or of no format there is.
    """
    known = identity(path, "data")
    if file_format is None:
        file_format = _detect_remote(known) if is_remote(path) else detect_format(path)
    return _open(known, path, max_chunk_bytes, file_format)


def detect_format(path: str) -> str:
    """Return the format of a file: by its first bytes, and where they do not tell, by its suffix.

    Raises:
      DataError: it is missing, or of no format there is.
    """
    known = identity(path, "data")
    if is_remote(path):
        return _detect_remote(known)
    try:
        with open(path, "rb") as file:
            line = file.read(_HEAD_BYTES + _CSV_LINE_BYTES)
    except OSError as error:
        raise DataError(f"'{path}': {error.strerror}; name a readable file") from error
    return _format_of(path, line)


@lru_cache(maxsize=4096)
def _detect_remote(known: Identity) -> str:
    try:
        wanted = min(known[-1], _HEAD_BYTES + _CSV_LINE_BYTES)
        line = opened(known).read_at(wanted, 0)
    except OSError as error:
        raise DataError(f"'{known[0]}': {error.strerror}") from error
    return _format_of(known[0], line)


def _format_of(path: str, line: bytes) -> str:
    suffix = next((kind for end, kind in _SUFFIXES.items() if path.lower().endswith(end)), None)
    head = line[:_HEAD_BYTES]
    for magic, kind in (
        (recordio.MAGIC, "recordio"),
        (parquet.MAGIC, "parquet"),
        (arrow.MAGIC, "arrow"),
    ):
        if head.startswith(magic):
            return kind
    for magic, what, right in (
        (_GZIP_MAGIC, "gzip", "gunzip it, or let elasticdl data convert read it"),
        (_FEATHER_1_MAGIC, "Feather version 1", "write version 2 (pyarrow.feather.write_feather)"),
        (_ARROW_STREAM_MAGIC, "an Arrow stream", "write an Arrow file (pyarrow.ipc.new_file)"),
    ):
        if head.startswith(magic):
            raise DataError(f"'{path}': is {what}, which cannot be read from the middle; {right}")
    if suffix is not None:
        return suffix
    if _is_tfrecord(head):
        return "tfrecord"
    if _is_text(line) and (b"," in line or b"\n" in line):
        return "csv"
    if not head and not os.path.splitext(path)[1]:
        return "recordio"  # A RecordIO file without records is empty.
    raise DataError(
        f"'{path}': unknown suffix and contents; "
        "name RecordIO, TFRecord, Parquet, CSV or Arrow files"
    )


def _is_tfrecord(head: bytes) -> bool:
    if len(head) < struct.calcsize("<QI"):
        return False
    import numpy as np

    from elasticdl.data.readers.kernels import masked_crc32c

    (stored,) = struct.unpack_from("<I", head, 8)
    return int(masked_crc32c(np.frombuffer(head, np.uint8), 0, 8)) == stored


def _is_text(line: bytes) -> bool:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        if error.start < len(line) - 4:
            return False
        text = line[: error.start].decode()
    return bool(text) and all(each.isprintable() or each in "\r\n\t" for each in text)


@lru_cache(maxsize=256)
def _open(identity: Identity, path: str, max_chunk_bytes: int, file_format: str) -> Reader:
    del identity  # part of the cache's key
    if file_format == "recordio":
        return recordio.RecordIOReader(path, max_chunk_bytes)
    if file_format == "parquet":
        return parquet.ParquetReader(path, max_chunk_bytes)
    if file_format == "arrow":
        return arrow.ArrowReader(path, max_chunk_bytes)
    if file_format == "tfrecord":
        from elasticdl.data.readers.tfrecord import TFRecordReader

        return TFRecordReader(path, max_chunk_bytes)
    from elasticdl.data.readers.csv import CsvReader

    return CsvReader(path, max_chunk_bytes)
