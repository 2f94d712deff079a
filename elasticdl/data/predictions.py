"""Predictions: parts as the tasks finish, one file in input order at the end.

A part is an Arrow IPC file with the rows of one task, a record batch for each minibatch. Parts
appear whole, so one that exists is complete, and writing one again replaces it by the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elasticdl.data.atomic_file import atomic_file
from elasticdl.data.filesystems import file_system
from elasticdl.data.sinks import open_sink
from elasticdl.errors import DataError, UsageError

ColumnValues: TypeAlias = "npt.ArrayLike | Sequence[Any]"

_ROWS_AT_ONCE = 1 << 16
_BYTES_AT_ONCE = 64 << 20
_SUFFIXES = (".recordio", ".parquet", ".csv")


class PredictionWriter:
    """Writes one part, which appears at `path` when the writer is closed without an error.

    Args:
      path: the Arrow IPC file.

    Raises:
      UsageError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.num_rows = 0
        self._resources = ExitStack()
        temporary = self._resources.enter_context(atomic_file(path))
        self._sink = self._resources.enter_context(pa.OSFile(str(temporary), "wb"))
        self._stream: Any = None

    def write(self, columns: Mapping[str, ColumnValues]) -> None:
        """Add the rows of one minibatch.

        Args:
          columns: by name, the same names and kinds in every call, one value a row: an array, its
            first dimension the rows; a list of bytes or str; or a list that has one array, or one
            list of bytes, a row.

        Raises:
          UsageError: lengths differ, or names and kinds are not those of the first call.
        """
        arrays = {name: _to_arrow(name, values) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(
                f"predictions: columns of different lengths, {lengths}; one value a row"
            )
        batch = pa.record_batch(arrays)
        if self._stream is None:
            self._stream = self._resources.enter_context(pa.ipc.new_file(self._sink, batch.schema))
            self._schema = batch.schema
        elif batch.schema != self._schema:
            raise UsageError(
                f"predictions: columns {_describe(batch.schema)}; "
                f"those of earlier minibatches were {_describe(self._schema)}"
            )
        self._stream.write_batch(batch)
        self.num_rows += batch.num_rows

    def close(self) -> None:
        """Put the part in its place. Closing again does nothing."""
        with self._resources:
            if self._stream is None and not self._sink.closed:
                pa.ipc.new_file(self._sink, pa.schema([])).close()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._resources.__exit__(kind, error, traceback)


def check_output(output: str | os.PathLike[str]) -> str:
    """Return the suffix of an output of predictions, which says its format.

    Raises:
      UsageError: it is not one of those there are.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(
            f"output '{os.fspath(output)}': unknown suffix '{suffix}'; "
            f"one of {', '.join(_SUFFIXES)}"
        )
    return suffix


def merge_parts(
    parts: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
) -> int:
    """Write the rows of all parts, in this order, to one file; return how many there are.

    The output's suffix says the format: ``.recordio`` (Examples), ``.parquet`` or ``.csv``. A
    column with one value in every row becomes a plain column; with the same number k > 1 in every
    row, a fixed-size list, in CSV the columns name_0 … name_{k-1}. The parts are streamed; the
    output appears whole, replacing what was there.

    Args:
      parts: the parts, in the order of their rows.
      output: the file to write.

    Raises:
      UsageError: unknown suffix, parts that do not match, or columns the format cannot hold.
      DataError: a part is missing or broken.
    """
    suffix = check_output(output)
    paths = [os.fspath(part) for part in parts]
    schema = _merged_schema(paths)
    num_rows = 0
    with atomic_file(output) as temporary, open_sink(suffix, temporary, schema) as sink:
        for table in _tables(paths):
            columns = [
                _regularize(table[field.name].combine_chunks(), field.type) for field in schema
            ]
            sink.write(pa.Table.from_arrays(columns, schema=schema))
            num_rows += table.num_rows
    return num_rows


def _to_arrow(name: str, values: ColumnValues) -> pa.Array:
    if isinstance(values, list | tuple) and values:
        first, kind = values[0], None
        if isinstance(first, np.ndarray):
            kind = pa.list_(pa.from_numpy_dtype(first.dtype))
        elif isinstance(first, list):
            kind = pa.list_(pa.binary())
        elif isinstance(first, bytes | str):
            kind = pa.binary()
        if kind is not None:
            try:
                return pa.array(values, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise UsageError(
                    f"predictions: column '{name}' has rows of different kinds ({error})"
                ) from error
    values = np.asarray(values)
    if not values.ndim:
        raise UsageError(f"predictions: column '{name}' is a single value; one value a row")
    if values.dtype.kind in "OSU":
        flat = pa.array(values.ravel().tolist(), pa.binary())
    elif values.dtype.kind in "biuf":
        flat = pa.array(values.ravel())
    elif values.dtype.name == "bfloat16":
        flat = pa.array(values.ravel().astype(np.float32))
    else:
        raise UsageError(f"predictions: column '{name}' is {values.dtype}; numbers or strings")
    if values.ndim == 1:
        return flat
    size = int(np.prod(values.shape[1:]))
    if not size:
        raise UsageError(
            f"predictions: column '{name}' has shape {values.shape}: no values in a row"
        )
    return pa.FixedSizeListArray.from_arrays(flat, size)


def _batches(part: str) -> Iterator[pa.RecordBatch]:
    """Iterate over the batches of a part; at least one, empty where there are no rows."""
    try:
        files, path = file_system(part)
        with files.open_input(path) as file:
            reader = pa.ipc.open_file(file)
            if not reader.num_record_batches:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"predictions part '{part}': {error}; it is missing or broken") from error


def _tables(parts: list[str]) -> Iterator[pa.Table]:
    """Iterate over the rows in tables large enough to be written efficiently."""
    pending: list[pa.RecordBatch] = []
    num_rows = num_bytes = 0
    for part in parts:
        for batch in _batches(part):
            if not batch.num_rows:
                continue
            pending.append(batch)
            num_rows += batch.num_rows
            num_bytes += batch.nbytes
            if num_rows >= _ROWS_AT_ONCE or num_bytes >= _BYTES_AT_ONCE:
                yield pa.Table.from_batches(pending)
                pending, num_rows, num_bytes = [], 0, 0
    if pending:
        yield pa.Table.from_batches(pending)


def _merged_schema(parts: list[str]) -> pa.Schema:
    """Return the schema of the output, having looked at the sizes of all lists."""
    schema, schema_part = pa.schema([]), ""
    sizes: dict[str, set[int]] = {}
    for part in parts:
        for batch in _batches(part):
            if not len(batch.schema):
                continue  # a part without minibatches
            if not len(schema):
                schema, schema_part = batch.schema, part
                sizes = {field.name: set() for field in schema if pa.types.is_list(field.type)}
            if batch.schema != schema:
                raise UsageError(
                    f"predictions part '{part}': columns {_describe(batch.schema)}; "
                    f"'{schema_part}' has {_describe(schema)}"
                )
            for name, seen in sizes.items():
                bounds = pc.min_max(pc.list_value_length(batch[name])).as_py()
                seen.update(size for size in bounds.values() if size is not None)
    uniform = {name: seen.pop() for name, seen in sizes.items() if len(seen) == 1}
    return pa.schema(
        [(field.name, _regular_type(field.type, uniform.get(field.name))) for field in schema]
    )


def _regular_type(kind: pa.DataType, size: int | None) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
    if not size:
        return kind
    return kind.value_type if size == 1 else pa.list_(kind.value_type, size)


def _regularize(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    flat = column.flatten()
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    return flat


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
