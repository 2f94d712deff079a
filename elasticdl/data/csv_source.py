"""CSV files as a source of Examples."""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import numpy as np

from elasticdl.data.example import FeatureValue
from elasticdl.errors import DataError, UsageError

COLUMN_TYPES = ("int64", "float32", "bytes")

_INTEGER = re.compile(r"[+-]?[0-9]{1,25}")
_INT64 = np.iinfo(np.int64)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class CsvSource:
    """The rows of CSV files with one header line each, the same in all.

    The type of a column is the first of int64, float32 and bytes that every value of it in all
    files fits; whole numbers too large for int64 stay bytes, exact. Spaces around a value do not
    count. An empty cell is a missing value: it counts for no type, and a number that is missing is
    left out of its Example. Files that end in ``.gz`` are decompressed.

    Args:
      paths: the files.
      delimiter: between cells.
      column_types: by column name "int64", "float32" or "bytes", in place of the inferred one.

    Raises:
      DataError: a file cannot be read as such; names file and line.
      UsageError: an argument is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str],
        delimiter: str = ",",
        column_types: Mapping[str, str] | None = None,
    ) -> None:
        if len(delimiter) != 1:
            raise UsageError(f"delimiter '{delimiter}': not one character")
        self._paths = list(paths)
        self._delimiter = delimiter
        self._names = self._read_header()
        self.columns: dict[str, str] = {}
        self.num_records = 0
        self._infer(dict(column_types or {}))

    def rows(self) -> Iterator[dict[str, FeatureValue]]:
        """Iterate over the rows, in the order of the files."""
        names = self._names
        types = [self.columns[name] for name in names]
        for path, line, cells in self._cells():
            row: dict[str, FeatureValue] = {}
            for name, kind, cell in zip(names, types, cells, strict=True):
                if kind == "bytes":
                    row[name] = cell
                elif cell:
                    row[name] = _parse(path, line, name, kind, cell)
            yield row

    def _infer(self, given: dict[str, str]) -> None:
        for name, kind in given.items():
            if name not in self._names:
                raise UsageError(f"column_types '{name}': no such column; {', '.join(self._names)}")
            if kind not in COLUMN_TYPES:
                raise UsageError(
                    f"column_types '{name}={kind}': unknown type; one of {', '.join(COLUMN_TYPES)}"
                )
        seen: list[set[str]] = [set() for _ in self._names]
        for _, _, cells in self._cells():
            self.num_records += 1
            for kinds, cell in zip(seen, cells, strict=True):
                if cell and "text" not in kinds:
                    kinds.add(_classify(cell))
        for name, kinds in zip(self._names, seen, strict=True):
            self.columns[name] = given.get(name) or _column_type(kinds)

    def _read_header(self) -> list[str]:
        names: list[str] | None = None
        for path in self._paths:
            header = next((cells for _, cells in _read(path, self._delimiter)), None)
            if header is None:
                raise DataError(f"CSV file '{path}': is empty; its first line names the columns")
            if "" in header or len(set(header)) < len(header):
                raise DataError(
                    f"CSV file '{path}', line 1: column names {header} are empty or repeated; "
                    "the first line names the columns"
                )
            if names is None:
                names = header
            elif names != header:
                raise DataError(
                    f"CSV file '{path}', line 1: columns {header}; '{self._paths[0]}' has {names}"
                )
        assert names is not None
        return names

    def _cells(self) -> Iterator[tuple[str, int, list[str]]]:
        for path in self._paths:
            lines = _read(path, self._delimiter)
            next(lines, None)
            for line, cells in lines:
                if len(cells) != len(self._names):
                    raise DataError(
                        f"CSV file '{path}', line {line}: {len(cells)} cells; "
                        f"the header names {len(self._names)} columns"
                    )
                yield path, line, cells


def _read(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Iterate over the lines that are not blank: the number and the stripped cells of each."""
    line = 0
    try:
        with _open(path) as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, [cell.strip() for cell in cells]
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(
            f"CSV file '{path}', after line {line}: {error}; it must be CSV text in UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"CSV file '{path}': {error.strerror or error}") from error


def _open(path: str) -> TextIO:
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _classify(cell: str) -> str:
    if _INTEGER.fullmatch(cell):
        return "integer" if _INT64.min <= int(cell) <= _INT64.max else "large integer"
    return "float" if _is_float(cell) else "text"


def _column_type(kinds: set[str]) -> str:
    if not kinds or "text" in kinds:
        return "bytes"
    if "float" in kinds:
        return "float32"
    return "bytes" if "large integer" in kinds else "int64"


def _is_float(cell: str) -> bool:
    try:
        number = float(cell)
    except ValueError:
        return False
    return "_" not in cell and (abs(number) <= _FLOAT32_MAX or not math.isfinite(number))


def _parse(path: str, line: int, name: str, kind: str, cell: str) -> int | float:
    if kind == "int64" and _INTEGER.fullmatch(cell):
        number = int(cell)
        if _INT64.min <= number <= _INT64.max:
            return number
    if kind == "float32" and _is_float(cell):
        return float(cell)
    raise DataError(f"CSV file '{path}', line {line}: column '{name}' has {cell!r}; not a {kind}")
