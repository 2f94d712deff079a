"""Files that tables are written to: RecordIO and TFRecord of Examples, Parquet, Arrow, CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from elasticdl.data.example import encode
from elasticdl.data.recordio import DEFAULT_CHUNK_BYTES, Compressor, Writer
from elasticdl.errors import UsageError


class Sink(Protocol):
    """Takes the rows of a file, some at a time; a context, which ends the file."""

    def __enter__(self) -> Sink: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None: ...
    def write(self, table: pa.Table) -> None: ...


class ExampleSink:
    """One Example a row; a value that is missing is left out of it."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __enter__(self) -> ExampleSink:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._writer.__exit__(kind, error, traceback)

    def write(self, table: pa.Table) -> None:
        columns = [_row_values(column.combine_chunks()) for column in table.columns]
        for row in zip(*columns, strict=True):
            features = dict(zip(table.column_names, row, strict=True))
            self._writer.write(encode({k: v for k, v in features.items() if v is not None}))

    def write_record(self, record: bytes) -> None:
        """Add a record as it is."""
        self._writer.write(record)


class _ParquetSink:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.parquet.ParquetWriter(str(path), schema)

    def __enter__(self) -> _ParquetSink:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)


class _ArrowSink:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(path), schema)

    def __enter__(self) -> _ArrowSink:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks())


class _CsvSink:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        for field in schema:
            if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
                raise UsageError(
                    f"output '{path.name}': column '{field.name}' has rows of different lengths; "
                    "write .parquet or .recordio, or do not keep it"
                )
        schema = _spread(schema.empty_table()).schema
        if len(set(schema.names)) < len(schema.names):
            raise UsageError(
                f"output '{path.name}': column names repeat, {schema.names}; rename one"
            )
        self._writer = pa.csv.CSVWriter(str(path), schema)

    def __enter__(self) -> _CsvSink:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        self._writer.write(_spread(table))


def open_sink(
    suffix: str,
    path: Path,
    schema: pa.Schema,
    compressor: Compressor | str = Compressor.SNAPPY,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> Sink:
    """Open a file for the rows of tables.

    Args:
      suffix: says the format, one of `SUFFIXES`; the path need not have it.
      path: where to write.
      schema: of all tables; for Examples of columns as `elasticdl.data.schema` has them.
      compressor: of RecordIO.
      chunk_bytes: of RecordIO.

    Raises:
      UsageError: the format cannot hold such columns.
    """
    if suffix == ".recordio":
        return ExampleSink(Writer(path, compressor, chunk_bytes))
    return _SINKS[suffix](path, schema)


def _tfrecord_sink(path: Path, schema: pa.Schema) -> Sink:
    from elasticdl.data.tfrecord import TFRecordWriter

    return ExampleSink(TFRecordWriter(path))


_SINKS: dict[str, Callable[[Path, pa.Schema], Sink]] = {
    ".tfrecord": _tfrecord_sink,
    ".parquet": _ParquetSink,
    ".arrow": _ArrowSink,
    ".feather": _ArrowSink,
    ".csv": _CsvSink,
}
SUFFIXES = (".recordio", *_SINKS)


def _spread(table: pa.Table) -> pa.Table:
    """Return a table with a column for each value of a fixed-size list."""
    names: list[str] = []
    columns: list[pa.Array] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks()
        if not pa.types.is_fixed_size_list(array.type):
            names.append(name)
            columns.append(_to_text(name, array))
            continue
        flat = _to_text(name, array.flatten())
        size = array.type.list_size
        for position in range(size):
            names.append(f"{name}_{position}")
            columns.append(flat.take(pa.array(np.arange(position, len(flat), size))))
    return pa.Table.from_arrays(columns, names=names)


def _to_text(name: str, array: pa.Array) -> pa.Array:
    if not pa.types.is_binary(array.type):
        return array
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"column '{name}' has bytes that are no UTF-8, which CSV cannot hold; "
            "write .parquet or .recordio, or do not keep it"
        ) from error


def _row_values(column: pa.Array) -> Any:
    """Return what `encode` takes, one value a row; None where it is missing."""
    kind = column.type
    if column.null_count:
        return column.to_pylist()
    if pa.types.is_fixed_size_list(kind):
        flat = _row_values(column.flatten())
        size = kind.list_size
        if isinstance(flat, np.ndarray):
            return flat.reshape(-1, size)
        return [flat[start : start + size] for start in range(0, len(flat), size)]
    if pa.types.is_list(kind):
        flat = _row_values(column.flatten())
        ends = np.cumsum(pc.list_value_length(column).to_numpy()).tolist()
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return column.to_pylist() if pa.types.is_binary(kind) else column.to_numpy(zero_copy_only=False)
