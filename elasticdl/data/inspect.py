"""What is in a data file."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from elasticdl.data.example import decode
from elasticdl.data.readers import detect_format, open_reader
from elasticdl.data.readers.arrow import ArrowReader
from elasticdl.data.readers.parquet import ParquetReader
from elasticdl.data.recordio import DEFAULT_MAX_CHUNK_BYTES, Compressor, Index, Scanner
from elasticdl.data.schema import Schema
from elasticdl.data.separators import separator_hint
from elasticdl.errors import DataError

_PREVIEW_VALUES = 4
_PREVIEW_BYTES = 24
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class FeatureSummary:
    """One feature of the first record."""

    type: str  # int64, float32 or bytes
    shape: tuple[int, ...]  # as stored: Examples are flat
    preview: str


@dataclass(frozen=True)
class FileSummary:
    """What `inspect` found.

    Attributes:
      num_chunks: of RecordIO, row groups of Parquet, record batches of Arrow; else 1.
      compressors: how they are stored, where the file says so in one place.
      first_record_bytes: None where there is no record, or where it is a row.
      features: of the first record; None where that is no Example.
    """

    path: str
    format: str
    num_bytes: int
    num_chunks: int
    num_records: int
    compressors: tuple[str, ...]
    first_record_bytes: int | None
    features: dict[str, FeatureSummary] | None
    is_verified: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        chunk = {"parquet": "row group", "arrow": "record batch", "recordio": "chunk"}
        pieces = ""
        if self.format in chunk:
            plural = {"record batch": "record batches"}.get(chunk[self.format])
            pieces = f" in {_count(self.num_chunks, chunk[self.format], plural)}"
        stored = f", {', '.join(self.compressors) or 'no'} compression" if pieces else ""
        stored = "" if self.format == "arrow" else stored
        lines = [
            self.path,
            f"  {self.format}: {_count(self.num_records, 'record')}{pieces}, "
            f"{self.num_bytes:,} bytes{stored}",
        ]
        if self.is_verified:
            what = "chunk" if self.format == "recordio" else "record"
            lines.append(f"  every {what} verified")
        if self.first_record_bytes is not None:
            what = "not a tf.train.Example" if self.features is None else "a tf.train.Example"
            lines.append(f"  first record: {self.first_record_bytes:,} bytes, {what}")
        if self.features:
            width = max(map(len, self.features))
            for name, feature in self.features.items():
                about = f"{feature.type:<7}  {list(feature.shape)}  {feature.preview}"
                lines.append(f"    {name:<{width}}  {about}")
            hint = separator_hint(list(self.features)) if self.format == "csv" else ""
            if hint:
                lines.append(f"  hint: {hint.removeprefix('; ')}")
        return "\n".join(lines)


def inspect(
    path: str | os.PathLike[str],
    verify: bool = False,
    max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
) -> FileSummary:
    """Summarize a data file: what it is made of and its first record, or its columns.

    Args:
      path: the file.
      verify: read and verify all of it, not only the beginning.
      max_chunk_bytes: the largest chunk accepted.

    Raises:
      DataError: the file is missing or broken.
    """
    file = os.fspath(path)
    file_format = detect_format(file)
    if file_format == "recordio":
        return _inspect_recordio(file, verify, max_chunk_bytes)
    reader = open_reader(file, max_chunk_bytes, file_format)
    first = reader.read(0, min(1, reader.num_records))
    if verify:
        for start in range(0, reader.num_records, _ROWS_AT_ONCE):
            reader.read(start, min(start + _ROWS_AT_ONCE, reader.num_records))
    num_chunks, compressors = 1, set()
    if isinstance(reader, ParquetReader):
        groups = [reader.metadata.row_group(i) for i in range(reader.metadata.num_row_groups)]
        num_chunks = len(groups)
        compressors = {
            group.column(i).compression.lower()
            for group in groups
            for i in range(group.num_columns)
        }
    elif isinstance(reader, ArrowReader):
        num_chunks = reader.num_batches
    if isinstance(first, list):
        record = first[0] if first else None
        features = None if record is None else _summarize(record)
    else:
        record, features = None, _summarize_row(first, reader.schema())
    return FileSummary(
        path=file,
        format=file_format,
        num_bytes=os.stat(file).st_size,
        num_chunks=num_chunks,
        num_records=reader.num_records,
        compressors=tuple(sorted(compressors)),
        first_record_bytes=None if record is None else len(record),
        features=features,
        is_verified=verify,
    )


def _inspect_recordio(path: str, verify: bool, max_chunk_bytes: int) -> FileSummary:
    index = Index(path, max_chunk_bytes)
    numbers = {index.header(chunk).compressor for chunk in range(index.num_chunks)}
    first = next(iter(Scanner(path, 0, 1, max_chunk_bytes)), None)
    if verify:
        for _ in Scanner(path, max_chunk_bytes=max_chunk_bytes).batches():
            pass
    return FileSummary(
        path=path,
        format="recordio",
        num_bytes=index.num_bytes,
        num_chunks=index.num_chunks,
        num_records=index.num_records,
        compressors=tuple(Compressor(number).name.lower() for number in sorted(numbers)),
        first_record_bytes=None if first is None else len(first),
        features=None if first is None else _summarize(first),
        is_verified=verify,
    )


def _summarize_row(table: pa.Table, schema: Schema) -> dict[str, FeatureSummary]:
    """Describe the columns of a table, with the values of its first row."""
    found = {}
    for column in schema:
        value = table.column(column.name)[0].as_py() if len(table) else None
        values = value if isinstance(value, list) else [] if value is None else [value]
        given: Any = values
        if column.kind != "bytes" and values:
            given = np.array(values, "float32" if column.kind == "float32" else "int64")
        about = _summarize_feature(given)
        shape = () if column.size is None else (len(values),)
        found[column.name] = FeatureSummary(column.type, shape, about.preview if values else "-")
    return found


def _summarize(record: bytes) -> dict[str, FeatureSummary] | None:
    try:
        features = decode(record)
    except DataError:
        return None
    # Much that is no Example parses as one without features.
    return {name: _summarize_feature(value) for name, value in features.items()} or None


def _summarize_feature(value: np.ndarray | list[bytes]) -> FeatureSummary:
    if isinstance(value, np.ndarray):
        form = "d" if value.dtype.kind == "i" else ".6g"
        type_name = str(value.dtype)
        shown = [format(item.item(), form) for item in value[:_PREVIEW_VALUES]]
    else:
        type_name, shown = "bytes", [_shorten(item) for item in value[:_PREVIEW_VALUES]]
    if len(value) > _PREVIEW_VALUES:
        shown.append("…")
    return FeatureSummary(type_name, (len(value),), " ".join(shown))


def _count(number: int, what: str, plural: str | None = None) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {plural or what + 's'}"


def _shorten(value: bytes) -> str:
    return repr(value[:_PREVIEW_BYTES])[1:] + ("…" if len(value) > _PREVIEW_BYTES else "")
