"""The columns a job reads, decided once at its launch, so that they are the same in every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from elasticdl.data.readers import Reader, open_reader
from elasticdl.data.schema import Column, Schema, parse_schema
from elasticdl.data.separators import separator_hint
from elasticdl.errors import UsageError


def decide_columns(
    paths: Sequence[str],
    max_chunk_bytes: int,
    wanted: Sequence[str] = (),
    given: Sequence[str] = (),
    trained: Schema = (),
) -> Schema:
    """Return the columns of some files; none where their records are bytes.

    The types of CSV columns are those that all values of all files fit; every file is read once for
    that, unless the types of all columns are known already.

    Args:
      paths: files of one format.
      max_chunk_bytes: the largest chunk accepted.
      wanted: names of the columns to read; all where there are none.
      given: types of columns in place of their own, as text.
      trained: what a model was trained on; its types hold where `given` has none.

    Raises:
      UsageError: a name is no column's, or columns are asked of records that have none.
      DataError: a column is of a type that no tensor can have.
    """
    readers = [open_reader(path, max_chunk_bytes) for path in paths]
    first = readers[0]
    if any(reader.is_table != first.is_table for reader in readers):
        odd = next(reader for reader in readers if reader.is_table != first.is_table)
        raise UsageError(
            f"validation_data '{odd.path}': one of it and '{first.path}' has columns, the other "
            "records of bytes; give files of one kind"
        )
    if not first.is_table:
        for option, values in (("columns", wanted), ("column_types", given)):
            if values:
                raise UsageError(
                    f"{option} '{values[0]}': the records of '{first.path}' are bytes and have no "
                    "columns; the input function parses them"
                )
        if trained:
            raise UsageError(
                f"data '{first.path}': its records are bytes, and the model was trained on columns "
                f"({', '.join(map(str, trained))}); give Parquet, CSV or Arrow files"
            )
        return ()
    names = first.names()
    for reader in readers[1:]:
        odd_names = sorted(set(names) - set(reader.names()))
        if odd_names:
            raise UsageError(
                f"'{reader.path}': has no column '{odd_names[0]}', which '{first.path}' has; "
                "files of one job have the same columns"
            )
    types = {column.name: column for column in trained}
    types.update((column.name, column) for column in parse_schema(given))
    for option, asked in (
        ("columns", wanted),
        ("column_types", [column.name for column in parse_schema(given)]),
    ):
        for name in asked:
            if name not in names:
                raise UsageError(
                    f"{option} '{name}': no such column; {', '.join(names)}{separator_hint(names)}"
                )
    kept = [name for name in names if not wanted or name in wanted]
    return _types(readers, kept, {name: types[name] for name in kept if name in types})


def _types(readers: Sequence[Reader], kept: list[str], types: dict[str, Column]) -> Schema:
    from elasticdl.data.readers.csv import CsvReader, infer_schema

    first = readers[0]
    if isinstance(first, CsvReader):
        files = cast("list[CsvReader]", [one for one in readers if isinstance(one, CsvReader)])
        unwanted = {name: Column(name, "bytes") for name in first.names() if name not in kept}
        schema = infer_schema(files, {**unwanted, **types})
        return tuple(column for column in schema if column.name in kept)
    return first.schema(kept, types)
