"""Files of any format as tables, to be converted and described."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pyarrow as pa

from elasticdl.data.example import decode
from elasticdl.data.numpy_source import NumpySource
from elasticdl.data.readers import Reader, detect_format, open_reader
from elasticdl.data.readers.csv import CsvReader, infer_schema
from elasticdl.data.schema import ANY_NUMBER, Column, Schema, conform, parse_schema, schema_of
from elasticdl.data.separators import separator_hint
from elasticdl.errors import DataError, UsageError

_CSV_SUFFIXES = (".csv", ".csv.gz", ".data", ".data.gz", ".txt", ".txt.gz")
_TFRECORD_GZ = (".tfrecord.gz", ".tfrecords.gz")
_NUMPY_SUFFIXES = (".npz", ".npy")
_ROWS_AT_ONCE = 1 << 14
# Larger than a job accepts: so that files can be brought into smaller pieces.
_MAX_CHUNK_BYTES = 4 << 30


class TableSource(Protocol):
    """Rows of some files, counted before the first is read."""

    num_records: int

    @property
    def schema(self) -> pa.Schema:
        """What every table has."""
        ...

    def tables(self) -> Iterator[pa.Table]:
        """Iterate over the rows in the order of the files, some at a time, of that schema."""
        ...


class RecordSource:
    """RecordIO or TFRecord files; as tables where their records are Examples."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = readers
        self.num_records = sum(reader.num_records for reader in readers)
        self._columns: Schema | None = None

    def records(self) -> Iterator[bytes]:
        """Iterate over the records as they are."""
        for _, records in self._parts():
            yield from records

    @property
    def columns(self) -> Schema:
        """What the Examples have; all of them are read for that, once."""
        if self._columns is None:
            self._columns = self._infer()
        return self._columns

    @property
    def schema(self) -> pa.Schema:
        """What the tables have."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns])

    def tables(self) -> Iterator[pa.Table]:
        """Iterate over the rows in the order of the files."""
        columns, schema = self.columns, self.schema
        for path, records in self._parts():
            rows = [_decode(path, record) for record in records]
            arrays = [
                pa.array([_value(row, column) for row in rows], column.arrow_type)
                for column in columns
            ]
            yield pa.Table.from_arrays(arrays, schema=schema)

    def _parts(self) -> Iterator[tuple[str, list[bytes]]]:
        for reader in self.readers:
            for start in range(0, reader.num_records, _ROWS_AT_ONCE):
                records = reader.read(start, min(start + _ROWS_AT_ONCE, reader.num_records))
                yield reader.path, cast("list[bytes]", records)

    def _infer(self) -> Schema:
        kinds: dict[str, set[str]] = defaultdict(set)
        lengths: dict[str, set[int]] = defaultdict(set)
        for path, records in self._parts():
            for record in records:
                for name, value in _decode(path, record).items():
                    kind = str(value.dtype) if isinstance(value, np.ndarray) else "bytes"
                    kinds[name].add(kind)
                    lengths[name].add(len(value))
                    if len(kinds[name]) > 1:
                        raise DataError(
                            f"'{path}': feature '{name}' is {' and '.join(sorted(kinds[name]))}; "
                            "a column is of one type"
                        )
        if not kinds and self.num_records:
            raise DataError(
                f"'{self.readers[0].path}': records are no tf.train.Example, so they have no "
                "columns; write RecordIO or TFRecord, which copies them"
            )
        schema = []
        for name in sorted(kinds):
            found = lengths[name] - {0}
            size = None if found <= {1} else max(found) if len(lengths[name]) == 1 else ANY_NUMBER
            schema.append(Column(name, kinds[name].pop(), size))
        return tuple(schema)


class FileSource:
    """CSV, Parquet or Arrow files, as the tables they are; CSV of the types its values fit."""

    def __init__(self, readers: Sequence[Reader], given: Mapping[str, Column]) -> None:
        self._readers = readers
        self.num_records = sum(reader.num_records for reader in readers)
        first = readers[0]
        names = first.names()
        for reader in readers[1:]:
            if set(reader.names()) != set(names):
                raise DataError(
                    f"'{reader.path}': columns {reader.names()}; '{first.path}' has {names}"
                )
        for name in given:
            if name not in names:
                raise UsageError(
                    f"column_types '{name}': no such column; {', '.join(names)}"
                    f"{separator_hint(names)}"
                )
        if isinstance(first, CsvReader):
            self._columns = infer_schema(cast("list[CsvReader]", readers), given)
            fields = [
                (each.name, pa.string() if each.kind == "bytes" else each.arrow_type)
                for each in self._columns
            ]
            self._schema = pa.schema(fields)
        else:
            self._columns = first.schema(None, given) if given else ()
            native = first.arrow_schema  # type: ignore[attr-defined]
            fields = [(each.name, each.arrow_type) for each in self._columns]
            self._schema = pa.schema(fields) if given else native.remove_metadata()

    @property
    def schema(self) -> pa.Schema:
        """What every table has: the file's own types where none are given."""
        return self._schema

    def tables(self) -> Iterator[pa.Table]:
        """Iterate over the rows in the order of the files."""
        for reader in self._readers:
            for start in range(0, reader.num_records, _ROWS_AT_ONCE):
                end = min(start + _ROWS_AT_ONCE, reader.num_records)
                if self._columns:
                    yield cast(pa.Table, reader.read(start, end, self._columns)).cast(self.schema)
                else:
                    native = reader.read_native(start, end)  # type: ignore[attr-defined]
                    yield native.select(self.schema.names).cast(self.schema)


@contextmanager
def open_source(
    paths: Sequence[str], column_types: Mapping[str, str] | None = None, delimiter: str = ","
) -> Iterator[TableSource]:
    """Open files of one kind; files that end in ``.gz`` are decompressed beside, for that time.

    Raises:
      UsageError: files of several kinds, or an argument is wrong.
      DataError: a file cannot be read as such.
    """
    given = {
        column.name: column
        for column in parse_schema(f"{name}={kind}" for name, kind in (column_types or {}).items())
    }
    if all(path.endswith(_NUMPY_SUFFIXES) for path in paths):
        if given:
            raise UsageError("column_types: for files with columns; NumPy arrays have their types")
        yield NumpySource(paths)
        return
    with ExitStack() as resources:
        plain = {path: path for path in paths}
        packed = [path for path in paths if path.endswith(".gz")]
        if packed:
            directory = Path(resources.enter_context(tempfile.TemporaryDirectory()))
            plain.update({path: _unpack(path, directory) for path in packed})
        try:
            kinds = {path: _kind(path) for path in paths}
            if len(set(kinds.values())) > 1:
                raise UsageError(
                    f"inputs '{paths[0]}', …: {', '.join(sorted(set(kinds.values())))} files; "
                    "give one kind at a time"
                )
            readers: list[Reader] = [
                CsvReader(plain[path], _MAX_CHUNK_BYTES, delimiter)
                if kinds[path] == "csv"
                else open_reader(plain[path], _MAX_CHUNK_BYTES, kinds[path])
                for path in paths
            ]
            if not readers[0].is_table:
                if given:
                    raise UsageError("column_types: for files with columns; Examples have types")
                yield RecordSource(readers)
            else:
                yield FileSource(readers, given)
        except DataError as error:
            text = str(error)
            for path in packed:
                text = text.replace(plain[path], path)
            raise DataError(text) from error


def describe(source: TableSource) -> dict[str, str]:
    """Return the type of each column by name, as `inspect` says it."""
    if isinstance(source, RecordSource):
        return {column.name: column.type for column in source.columns}
    return {column.name: column.type for column in schema_of(source.schema, "the files")}


def conformed(source: TableSource) -> Iterator[pa.Table]:
    """Iterate over the rows in the types that tensors have."""
    schema = schema_of(source.schema, "the files")
    for table in source.tables():
        yield conform(table, schema, "the files")


def _kind(path: str) -> str:
    if path.endswith(_NUMPY_SUFFIXES):
        return "NumPy"
    if path.endswith(_CSV_SUFFIXES):
        return "csv"
    return "tfrecord" if path.endswith(_TFRECORD_GZ) else detect_format(path)


def _unpack(path: str, directory: Path) -> str:
    target = directory / f"{len(list(directory.iterdir()))}-{Path(path).stem}"
    try:
        with gzip.open(path, "rb") as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (OSError, EOFError) as error:
        raise DataError(f"'{path}': {error}; it must be one gzip file") from error
    return str(target)


def _decode(path: str, record: bytes) -> dict[str, np.ndarray | list[bytes]]:
    try:
        return decode(record)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error


def _value(row: dict[str, np.ndarray | list[bytes]], column: Column) -> object:
    value = row.get(column.name)
    if column.size is not None:
        return value
    return value[0] if value is not None and len(value) else None
