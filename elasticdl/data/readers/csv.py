"""CSV files as data of a job: a header line, then a row a line, or more where quoted."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from elasticdl.data.readers import kernels
from elasticdl.data.readers.reader import check_range, identity, mapped
from elasticdl.data.schema import Column, Schema
from elasticdl.data.separators import separator_hint
from elasticdl.errors import DataError, UsageError

_EVERY = 256
_BOM = b"\xef\xbb\xbf"
_LARGEST_COUNT = 1 << 62
_ROWS_AT_ONCE = 1 << 16
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INTEGER = r"^[+-]?[0-9]{1,25}$"


class CsvReader:
    """See `Reader`. Quoted values may have line ends and delimiters; blank lines do not count.

    The rows are counted once per process, and where every 256th begins is noted; a task parses no
    more than its own rows. Spaces around a value do not count; an empty number is missing.
    """

    is_table = True

    def __init__(self, path: str, max_chunk_bytes: int, delimiter: str = ",") -> None:
        if len(delimiter) != 1 or not delimiter.isascii():
            raise UsageError(f"delimiter '{delimiter}': not one character")
        self.path = path
        self._max_bytes = max_chunk_bytes
        self._delimiter = delimiter
        identity(path, "CSV")
        self._data = mapped(path, "CSV")
        self._begin = len(_BOM) if self._data[: len(_BOM)].tobytes() == _BOM else 0
        self._names = self._read_header()
        self.num_records = self._index[0]

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return self._names

    def schema(
        self, names: Sequence[str] | None = None, given: Mapping[str, Column] | None = None
    ) -> Schema:
        """Return the columns, of the types that every value of them fits; reads all rows."""
        schema = infer_schema([self], given or {})
        return tuple(column for column in schema if names is None or column.name in names)

    def read(self, start: int, end: int, schema: Schema | None = None) -> pa.Table:
        """Return the rows of a range."""
        check_range(self, start, end)
        schema = self.schema() if schema is None else schema
        self._check_names(schema)
        if start == end:
            return pa.schema([(one.name, one.arrow_type) for one in schema]).empty_table()
        begin = self._offset(start)
        text = self._rows(begin, end - start)
        kinds = {one.name: _parsed_type(one, self.path) for one in schema}
        try:
            table = self._parse(text, kinds)
        except pa.ArrowInvalid as error:
            raise self._misfit(text, begin, schema, error) from error
        if len(table) != end - start:
            raise DataError(
                f"CSV file '{self.path}': {len(table)} rows where {end - start} were counted; "
                "a quote must follow a delimiter at once"
            )
        for column in schema:
            wrong = _overflow(table, column)
            if wrong is not None:
                raise self._misfit(text, begin, schema, wrong)
        columns = [_finish(table.column(one.name), one) for one in schema]
        return pa.table(columns, names=[one.name for one in schema])

    def texts(self) -> Iterator[pa.Table]:
        """Iterate over all rows as strings, some at a time."""
        wanted = dict.fromkeys(self._names, pa.string())
        for start in range(0, self.num_records, _ROWS_AT_ONCE):
            count = min(_ROWS_AT_ONCE, self.num_records - start)
            begin = self._offset(start)
            text = self._rows(begin, count)
            try:
                yield self._parse(text, wanted)
            except pa.ArrowInvalid as error:
                raise self._misfit(text, begin, (), error) from error

    @cached_property
    def _index(self) -> tuple[int, np.ndarray]:
        offsets = np.empty((len(self._data) - self._begin) // (2 * _EVERY) + 2, np.int64)
        count, _, quote = kernels.scan_csv(
            self._data,
            self._after_header,
            _LARGEST_COUNT,
            ord(self._delimiter),
            _EVERY,
            offsets,
        )
        if quote >= 0:
            raise DataError(
                f"CSV file '{self.path}', after line {self._line(quote) - 1}: "
                "unexpected end of data; a quote in the next line is never closed"
            )
        return int(count), offsets[: -(-count // _EVERY)].copy()

    def _read_header(self) -> list[str]:
        self._after_header = self._begin
        text = self._rows(self._begin, 1)
        if not text.strip():
            raise DataError(f"CSV file '{self.path}': is empty; its first line names the columns")
        self._after_header = self._begin + self._skip(self._begin, 1)
        try:
            options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
            parse = pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True)
            convert = pyarrow.csv.ConvertOptions(default_column_type=pa.string())
            table = pyarrow.csv.read_csv(io.BytesIO(text), options, parse, convert)
            names = [str(value).strip() for value in next(iter(table.to_pylist())).values()]
        except (pa.ArrowException, StopIteration) as error:
            raise DataError(
                f"CSV file '{self.path}', line 1: {error}; it must be CSV text in UTF-8"
            ) from error
        if "" in names or len(set(names)) < len(names):
            raise DataError(
                f"CSV file '{self.path}', line 1: column names {names} are empty or repeated; "
                "the first line names the columns"
            )
        return names

    def _skip(self, begin: int, rows: int) -> int:
        """Return how many bytes some rows from an offset on take."""
        offsets = np.empty(rows + 1, np.int64)
        _, end, _ = kernels.scan_csv(self._data, begin, rows, ord(self._delimiter), 1, offsets)
        return int(end) - begin

    def _rows(self, begin: int, rows: int) -> bytes:
        num_bytes = self._skip(begin, rows)
        if num_bytes > self._max_bytes:
            raise DataError(
                f"CSV file '{self.path}', from line {self._line(begin)} on: {rows} rows of "
                f"{num_bytes} bytes, over max_chunk_bytes={self._max_bytes}; is a quote missing? "
                "Else give fewer --records_per_task"
            )
        return self._data[begin : begin + num_bytes].tobytes()

    def _offset(self, row: int) -> int:
        offset = int(self._index[1][row // _EVERY])
        skipped = row % _EVERY
        return offset + self._skip(offset, skipped) if skipped else offset

    def _parse(self, text: bytes, kinds: dict[str, pa.DataType]) -> pa.Table:
        return pyarrow.csv.read_csv(
            io.BytesIO(text),
            pyarrow.csv.ReadOptions(
                column_names=self._names,
                block_size=max(1024, len(text) + 1),  # one block: rows of any length
                use_threads=False,
            ),
            pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types=kinds,
                include_columns=list(kinds),
                null_values=[""],
                strings_can_be_null=False,
                true_values=["true", "True", "TRUE", "1"],
                false_values=["false", "False", "FALSE", "0"],
            ),
        )

    def _misfit(self, text: bytes, begin: int, schema: Schema, error: object) -> DataError:
        """Return the error that names the line, which the parser does not know."""
        offsets = np.empty(len(text) // 2 + 2, np.int64)
        data = np.frombuffer(text, np.uint8)
        count, _, _ = kernels.scan_csv(data, 0, _LARGEST_COUNT, ord(self._delimiter), 1, offsets)
        first_line = self._line(begin)
        ends = [*offsets[1:count].tolist(), len(text)]
        for start, end in zip(offsets[:count].tolist(), ends, strict=True):
            row = text[start:end]
            line = first_line + text.count(b"\n", 0, start)
            try:
                cells = self._parse(row, dict.fromkeys(self._names, pa.string()))
            except pa.ArrowInvalid as problem:
                found = _num_cells(row, self._delimiter)
                if found is not None and found != len(self._names):
                    return DataError(
                        f"CSV file '{self.path}', line {line}: {found} cells; "
                        f"the header names {len(self._names)} columns"
                    )
                return DataError(
                    f"CSV file '{self.path}', line {line}: "
                    f"{str(problem).splitlines()[0]}; it must be CSV text in UTF-8"
                )
            for column in schema:
                cell = cells.column(column.name)[0].as_py()
                try:
                    part = self._parse(row, {column.name: _parsed_type(column, self.path)})
                    fits = _overflow(part, column) is None
                except pa.ArrowInvalid:
                    fits = False
                if not fits:
                    return DataError(
                        f"CSV file '{self.path}', line {line}: column '{column.name}' has "
                        f"{cell.strip()!r}; not a {column.kind}; give --column_types="
                        f"{column.name}=bytes (or float32), or correct the file"
                    )
        return DataError(f"CSV file '{self.path}', after line {first_line}: {error}")

    def _line(self, offset: int) -> int:
        """Return the number of the line an offset is in, from 1."""
        step = 1 << 24
        return 1 + sum(
            int(np.count_nonzero(self._data[start : min(start + step, offset)] == ord("\n")))
            for start in range(0, offset, step)
        )

    def _check_names(self, schema: Schema) -> None:
        for column in schema:
            if column.name not in self._names:
                raise DataError(
                    f"CSV file '{self.path}': has no column '{column.name}'; "
                    f"it has {', '.join(self._names)}{separator_hint(self._names)}"
                )


def infer_schema(readers: Sequence[CsvReader], given: Mapping[str, Column]) -> Schema:
    """Return the columns of some CSV files, each of the narrowest type that all its values fit.

    The first of int64, float32 and bytes. Whole numbers too large for int64 stay bytes, exact.

    Args:
      readers: files with the same columns.
      given: types by name, in place of inferred ones.
    """
    names = readers[0].names()
    seen: dict[str, set[str]] = {name: set() for name in names if name not in given}
    if seen:
        for reader in readers:
            for table in reader.texts():
                for name, kinds in seen.items():
                    if "text" not in kinds:
                        kinds |= _kinds(table.column(name))
    return tuple(
        given[name] if name in given else Column(name, _narrowest(seen[name])) for name in names
    )


def _kinds(cells: Any) -> set[str]:
    cells = pc.utf8_trim_whitespace(cells)
    cells = cells.filter(pc.not_equal(cells, ""))
    if not len(cells):
        return set()
    integers = pc.match_substring_regex(cells, _INTEGER)
    if pc.all(integers).as_py():
        try:
            cells.cast(pa.int64())
            return {"integer"}
        except pa.ArrowInvalid:
            return {"large integer"}
    try:
        numbers = pc.abs(cells.cast(pa.float64()))
    except pa.ArrowInvalid:
        return {"text"}
    finite = numbers.filter(pc.is_finite(numbers))
    largest = pc.max(finite).as_py()
    return {"text"} if largest is not None and largest > _FLOAT32_MAX else {"float"}


def _narrowest(kinds: set[str]) -> str:
    if not kinds or "text" in kinds:
        return "bytes"
    if "float" in kinds:
        return "float32"
    return "bytes" if "large integer" in kinds else "int64"


def _parsed_type(column: Column, path: str) -> pa.DataType:
    if column.size is not None:
        raise DataError(
            f"CSV file '{path}': column '{column.name}' as {column.type}: a cell is one value; "
            "write Parquet, or read bytes and split them"
        )
    # As float64, so that what does not fit a float32 is seen; text, to know that it is UTF-8.
    parsed = {"bytes": pa.string(), "float32": pa.float64()}
    return parsed.get(column.kind, column.arrow_type)


def _overflow(table: pa.Table, column: Column) -> str | None:
    if column.kind != "float32":
        return None
    numbers = pc.abs(table.column(column.name))
    largest = pc.max(numbers.filter(pc.is_finite(numbers))).as_py()
    if largest is not None and largest > _FLOAT32_MAX:
        return f"column '{column.name}' has {largest}"
    return None


def _finish(array: Any, column: Column) -> Any:
    if column.kind == "bytes":
        return pc.utf8_trim_whitespace(array).cast(pa.binary())
    return array.cast(column.arrow_type, safe=False)


def _num_cells(row: bytes, delimiter: str) -> int | None:
    """Return how many cells a row has, or None where it is not even that."""
    import csv

    try:
        (cells,) = csv.reader(io.StringIO(row.decode(), newline=""), delimiter=delimiter)
    except (ValueError, csv.Error):
        return None
    return len(cells)
