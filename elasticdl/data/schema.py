"""The columns of a table: what they are called and what a row has in each.

A column is int64, float32, bool or bytes; a row has one value in it, the same number of values, or
any number. Other types of files are turned into these where nothing is lost that a model could
use: whole numbers are int64, other numbers float32, strings bytes, times int64 nanoseconds (dates
and timestamps since 1970 in UTC). Text names a column as ``age=int64``, ``vector=float32[3]`` or
``ids=int64[]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elasticdl.errors import DataError, UsageError

KINDS = ("int64", "float32", "bool", "bytes")
ANY_NUMBER = -1

_TEXT = re.compile(r"(?P<name>.*)=(?P<kind>\w+)(?P<list>\[(?P<size>[0-9]*)\])?", re.DOTALL)
_ARROW_KINDS = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "bytes": pa.binary(),
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      kind: one of `KINDS`.
      size: values in a row: None for one, `ANY_NUMBER`, or how many.
    """

    name: str
    kind: str
    size: int | None = None

    @classmethod
    def parse(cls, text: str, option: str = "column_types") -> Column:
        """Read a column's text form.

        Raises:
          UsageError: it is none.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not match["name"].strip():
            raise UsageError(
                f"{option} '{text}': not NAME=TYPE; give name and type, as price=float32"
            )
        if match["kind"] not in KINDS:
            raise UsageError(f"{option} '{text}': unknown type; one of {', '.join(KINDS)}")
        size = None
        if match["list"]:
            size = int(match["size"]) if match["size"] else ANY_NUMBER
        return cls(match["name"].strip(), match["kind"], size)

    @property
    def type(self) -> str:
        """The type's text form."""
        if self.size is None:
            return self.kind
        return f"{self.kind}[{'' if self.size == ANY_NUMBER else self.size}]"

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of its arrays."""
        kind = _ARROW_KINDS[self.kind]
        if self.size is None:
            return kind
        return pa.list_(kind) if self.size == ANY_NUMBER else pa.list_(kind, self.size)

    def __str__(self) -> str:
        return f"{self.name}={self.type}"


Schema = tuple[Column, ...]


def parse_schema(texts: Iterable[str]) -> Schema:
    """Read the text forms of columns."""
    return tuple(Column.parse(text) for text in texts)


def schema_of(
    schema: pa.Schema,
    path: str,
    names: Sequence[str] | None = None,
    given: Mapping[str, Column] | None = None,
) -> Schema:
    """Return what the columns of a file become.

    Args:
      schema: the file's.
      path: for the errors.
      names: those wanted; all where None.
      given: types to use in place of a column's own.

    Raises:
      DataError: a column is of a type that no column can be made of, or a name is there twice.
    """
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"'{path}': column names repeat, {schema.names}; rename one")
    return tuple(
        _column_of(field, path, (given or {}).get(field.name))
        for field in schema
        if names is None or field.name in names
    )


def conform(table: pa.Table, schema: Schema, path: str) -> pa.Table:
    """Return a table's columns as a schema wants them; nulls stay.

    Raises:
      DataError: a column is missing, or has values that do not fit.
    """
    arrays = []
    for column in schema:
        position = table.schema.get_field_index(column.name)
        if position < 0:
            raise DataError(
                f"'{path}': has no column '{column.name}'; it has {', '.join(table.column_names)}"
            )
        try:
            arrays.append(_cast(table.column(position), column))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise DataError(
                f"'{path}': column '{column.name}' of {table.schema.field(position).type} does "
                f"not fit {column.type} ({str(error).splitlines()[0]}); give another type with "
                f"--column_types={column.name}=…"
            ) from error
    fields = [pa.field(column.name, column.arrow_type) for column in schema]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def arrays_of(table: pa.Table, schema: Schema, where: str) -> list[np.ndarray]:
    """Return a conformed table as arrays: one a column, two (values, row splits) where ragged.

    A missing number of a float column is NaN, missing bytes are empty, a missing list is empty.

    Args:
      where: the file and its rows, for the errors.

    Raises:
      DataError: an int64 or bool value, or all of a list of fixed size, is missing.
    """
    arrays: list[np.ndarray] = []
    for column in schema:
        array = table.column(column.name).combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], column.arrow_type)
        if column.size is None:
            arrays.append(_values(array, column, where))
        elif column.size == ANY_NUMBER:
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
            arrays += [_values(array.flatten(), column, where), splits]
        else:
            if array.null_count:
                raise _missing(column, array, where)
            flat = _values(array.flatten(), column, where)
            arrays.append(flat.reshape(len(array), column.size))
    return arrays


def _column_of(field: pa.Field, path: str, given: Column | None) -> Column:
    kind, size = field.type, None
    if pa.types.is_fixed_size_list(kind):
        kind, size = kind.value_type, kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, size = kind.value_type, ANY_NUMBER
    if given is not None:
        return Column(field.name, given.kind, size if given.size is None else given.size)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return Column(field.name, "int64", size)
    if pa.types.is_floating(kind):
        return Column(field.name, "float32", size)
    if pa.types.is_boolean(kind):
        return Column(field.name, "bool", size)
    if _is_text(kind) or pa.types.is_null(kind):
        return Column(field.name, "bytes", size)
    right = (
        f"--column_types={field.name}=float32 (or int64, bytes) reads it so"
        if pa.types.is_decimal(kind)
        else "write its parts as columns of their own, or leave it out with --columns"
    )
    raise DataError(f"'{path}': column '{field.name}' is {field.type}, which no tensor is; {right}")


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def _cast(array: Any, column: Column) -> Any:
    """Turn an array, or the chunks of one, into the column's type."""
    if array.type == column.arrow_type:
        return array
    if column.size is not None:
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        return pa.chunked_array([_cast_list(each, column) for each in chunks], column.arrow_type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    target, kind = column.arrow_type, array.type
    if column.kind == "int64" and pa.types.is_temporal(kind):
        return _nanoseconds(array)
    if column.kind == "bytes" and not _is_text(kind):
        return array.cast(pa.string()).cast(target)
    if column.kind != "bytes" and _is_text(kind):
        array = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return array.cast(target, safe=column.kind != "float32")


def _cast_list(array: Any, column: Column) -> Any:
    kind = array.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise ValueError("it has one value a row")
    values = _cast(array.flatten(), Column(column.name, column.kind))
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    lengths = pc.list_value_length(array)
    if column.size == ANY_NUMBER:
        ends = np.cumsum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False), dtype=np.int64)
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, values, type=column.arrow_type)
    if array.null_count or not pc.all(pc.equal(lengths, column.size)).as_py():
        raise ValueError(f"not all of its rows have {column.size} values")
    return pa.FixedSizeListArray.from_arrays(values, column.size)


def _nanoseconds(array: Any) -> Any:
    kind = array.type
    if pa.types.is_duration(kind):
        return array.cast(pa.duration("ns")).cast(pa.int64())
    if pa.types.is_time(kind):
        return array.cast(pa.time64("ns")).cast(pa.int64())
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())
    return array.cast(pa.timestamp("ns")).cast(pa.int64())


def _values(array: Any, column: Column, where: str) -> np.ndarray:
    if array.null_count:
        if column.kind == "float32":
            array = pc.fill_null(array, pa.scalar(float("nan"), pa.float32()))
        elif column.kind == "bytes":
            array = pc.fill_null(array, b"")
        else:
            raise _missing(column, array, where)
    return array.to_numpy(zero_copy_only=False)


def _missing(column: Column, array: Any, where: str) -> DataError:
    row = pc.index(pc.is_null(array), True).as_py()
    right = "fill it in the file"
    if column.kind == "int64" and column.size is None:
        right += f", or give --column_types={column.name}=float32: then it is NaN"
    return DataError(
        f"{where}: column '{column.name}' ({column.type}) has no value in row {row} of these; "
        f"{right}"
    )


def texts_of(schema: Sequence[Column]) -> tuple[str, ...]:
    """Return the text forms of columns."""
    return tuple(map(str, schema))
