"""What the values of each column of data files are like."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elasticdl.data.shards import find_files
from elasticdl.data.table_sources import conformed, open_source

_KEPT_HASHES = 4096
_MOST_COUNTED = 100_000
_TOP = 5
_SHOWN_BYTES = 24


@dataclass(frozen=True)
class ColumnStatistics:
    """One column; of a column of lists, the numbers are about all values of all lists.

    Attributes:
      count: rows that have the column.
      missing: rows that have not; of lists, empty ones are not missing.
      min, max, mean, std: of numbers that are finite; booleans count as 0 and 1.
      not_finite: NaN and infinities among the numbers that are there.
      distinct: different values; exact up to 4,096, beyond estimated (standard error 1.6 %).
      lengths: least, mean and most values of a list, or bytes of a value.
      top: the most frequent values and how often each is there; None for float32.
      is_estimate: whether `distinct`, and the counts of `top`, are estimates.
    """

    type: str
    count: int
    missing: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    not_finite: int
    distinct: int
    is_estimate: bool
    lengths: tuple[int, float, int] | None
    top: tuple[tuple[Any, int], ...] | None


@dataclass(frozen=True)
class DataStatistics:
    """What `describe_data` found out."""

    num_files: int
    num_records: int
    columns: dict[str, ColumnStatistics]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; bytes as text."""
        found = asdict(self)
        for column in found["columns"].values():
            if column["top"] is not None:
                column["top"] = [[_plain(value), count] for value, count in column["top"]]
        return found

    def __str__(self) -> str:
        files = "1 file" if self.num_files == 1 else f"{self.num_files:,} files"
        lines = [f"{self.num_records:,} records in {files}"]
        for name, column in self.columns.items():
            lines.append(f"{name}: {column.type}, {_count_text(column)}")
            if column.mean is not None:
                lines.append(
                    f"    min {_number(column.min)}, max {_number(column.max)}, "
                    f"mean {_number(column.mean)}, std {_number(column.std)}"
                )
            if column.lengths is not None:
                least, mean, most = column.lengths
                lines.append(f"    lengths {least:,} to {most:,}, mean {mean:,.4g}")
            if column.top:
                shown = ", ".join(f"{_shown(value)} ({count:,})" for value, count in column.top)
                lines.append(f"    top {shown}")
        return "\n".join(lines)


def describe_data(
    inputs: str | Sequence[str],
    *,
    column_types: Mapping[str, str] | None = None,
    delimiter: str = ",",
) -> DataStatistics:
    """Go over files of any format once and describe their columns, of Examples too.

    Memory does not grow with the data.

    Args:
      inputs: paths and globs, a list or separated by commas; all of one format.
      column_types: types in place of the files' own.
      delimiter: for CSV.

    Raises:
      UsageError: no such file, or an argument is wrong.
      DataError: a file cannot be read as such.
    """
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    paths = [path for pattern in patterns for path in find_files(pattern, "inputs")]
    with open_source(paths, column_types, delimiter) as source:
        columns: dict[str, _Column] = {}
        for table in conformed(source):
            for name in table.column_names:
                if name not in columns:
                    columns[name] = _Column(table.schema.field(name).type)
                columns[name].add(table.column(name).combine_chunks())
        return DataStatistics(
            len(paths), source.num_records, {name: each.result() for name, each in columns.items()}
        )


class _Column:
    """What is known of a column so far."""

    def __init__(self, kind: pa.DataType) -> None:
        self._is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
        self._values_kind = kind.value_type if self._is_list else kind
        self._kind = kind
        self._count = self._missing = self._not_finite = 0
        self._num_numbers, self._mean, self._square_sum = 0, 0.0, 0.0
        self._bounds: list[float] = []
        self._exact: list[int] = []
        self._lengths: list[int] = []
        self._length_sum = self._num_lengths = 0
        self._distinct = _Distinct()
        counts_top = not pa.types.is_floating(self._values_kind)
        self._top: Counter[Any] | None = Counter() if counts_top else None
        self._dropped = False

    def add(self, array: Any) -> None:
        """Count some rows."""
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        self._missing += array.null_count
        self._count += len(array) - array.null_count
        array = array.drop_null()
        values = array
        if self._is_list:
            self._add_lengths(pc.list_value_length(array))
            values = array.flatten().drop_null()
        elif pa.types.is_binary(self._values_kind):
            self._add_lengths(pc.binary_length(array))
        if not pa.types.is_binary(self._values_kind):
            self._add_numbers(values.cast(pa.float64(), safe=False).to_numpy())
            if pa.types.is_int64(values.type) and len(values):
                bounds = pc.min_max(values).as_py()  # Exact: float64 is not, for large ids.
                self._exact = [*self._exact, bounds["min"], bounds["max"]]
                self._exact = [min(self._exact), max(self._exact)]
        self._add_values(values)

    def _add_lengths(self, lengths: Any) -> None:
        if len(lengths):
            bounds = pc.min_max(lengths).as_py()
            self._lengths += [bounds["min"], bounds["max"]]
            self._lengths = [min(self._lengths), max(self._lengths)]
            self._length_sum += pc.sum(lengths).as_py()
            self._num_lengths += len(lengths)

    def _add_numbers(self, numbers: np.ndarray) -> None:
        finite = numbers[np.isfinite(numbers)]
        self._not_finite += len(numbers) - len(finite)
        if not len(finite):
            return
        # Chan et al.: means and sums of squares of two parts make those of the whole.
        count, mean = len(finite), float(finite.mean())
        total = self._num_numbers + count
        delta = mean - self._mean
        self._square_sum += float(((finite - mean) ** 2).sum())
        self._square_sum += delta * delta * self._num_numbers * count / total
        self._mean += delta * count / total
        self._num_numbers = total
        self._bounds += [float(finite.min()), float(finite.max())]
        self._bounds = [min(self._bounds), max(self._bounds)]

    def _add_values(self, values: Any) -> None:
        counted = pc.value_counts(values)
        distinct = counted.field("values")
        self._distinct.add(distinct)
        if self._top is None:
            return
        counts = counted.field("counts").to_pylist()
        self._top.update(dict(zip(distinct.to_pylist(), counts, strict=True)))
        if len(self._top) > _MOST_COUNTED:
            self._top = Counter(dict(self._top.most_common(_MOST_COUNTED // 2)))
            self._dropped = True

    def result(self) -> ColumnStatistics:
        """Return it all."""
        has_numbers = self._num_numbers > 0
        whole = not pa.types.is_floating(self._values_kind)
        bounds: list[Any] = self._exact or [int(one) if whole else one for one in self._bounds]
        bounds = bounds or [None, None]
        lengths = None
        if self._num_lengths:
            mean = self._length_sum / self._num_lengths
            lengths = (self._lengths[0], mean, self._lengths[1])
        kind = {"float": "float32", "binary": "bytes"}.get(
            str(self._values_kind), str(self._values_kind)
        )
        if self._is_list:
            fixed = pa.types.is_fixed_size_list(self._kind)
            kind += f"[{self._kind.list_size}]" if fixed else "[]"
        return ColumnStatistics(
            type=kind,
            count=self._count,
            missing=self._missing,
            min=bounds[0],
            max=bounds[1],
            mean=self._mean if has_numbers else None,
            std=float(np.sqrt(self._square_sum / self._num_numbers)) if has_numbers else None,
            not_finite=self._not_finite,
            distinct=self._distinct.estimate,
            is_estimate=self._distinct.is_estimate or self._dropped,
            lengths=lengths,
            top=None if self._top is None else tuple(self._top.most_common(_TOP)),
        )


class _Distinct:
    """How many different values there are: from the least of their hashes.

    References:
      Bar-Yossef et al., "Counting Distinct Elements in a Data Stream" (2002).
    """

    def __init__(self) -> None:
        self._least = np.empty(0, np.uint64)
        self.is_estimate = False

    def add(self, distinct: Any) -> None:
        """Take note of values."""
        if pa.types.is_binary(distinct.type):
            digests = (hashlib.blake2b(v, digest_size=8).digest() for v in distinct.to_pylist())
            hashes = np.frombuffer(b"".join(digests), np.uint64)
        else:
            if pa.types.is_boolean(distinct.type):
                distinct = distinct.cast(pa.int64())
            numbers = distinct.to_numpy(zero_copy_only=False)
            numbers = numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers
            hashes = _mixed(numbers.view(np.uint64))
        union = np.union1d(self._least, hashes)
        self.is_estimate = self.is_estimate or len(union) > _KEPT_HASHES
        self._least = union[:_KEPT_HASHES]

    @property
    def estimate(self) -> int:
        """How many."""
        if not self.is_estimate:
            return len(self._least)
        return round((_KEPT_HASHES - 1) * 2.0**64 / float(self._least[-1]))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Return hashes of 64-bit patterns (SplitMix64's last steps)."""
    mixed = bits + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _count_text(column: ColumnStatistics) -> str:
    about = "about " if column.is_estimate else ""
    text = (
        f"{column.count:,} there, {column.missing:,} missing, {about}{column.distinct:,} distinct"
    )
    return f"{text}, {column.not_finite:,} not finite" if column.not_finite else text


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    return repr(value[:_SHOWN_BYTES])[1:] + ("…" if len(value) > _SHOWN_BYTES else "")
