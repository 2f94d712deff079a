"""From data files of any format to those of another, or of the same in other pieces."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import pyarrow as pa

from elasticdl.data.recordio import Compressor
from elasticdl.data.shards import find_files
from elasticdl.data.sinks import SUFFIXES, ExampleSink, Sink, open_sink
from elasticdl.data.table_sources import (
    RecordSource,
    TableSource,
    conformed,
    describe,
    open_source,
)
from elasticdl.errors import UsageError

# A task reads whole chunks: small ones mean that it reads little more than its own records.
_CHUNK_BYTES = 1 << 20

_RECORD_SUFFIXES = (".recordio", ".tfrecord")


@dataclass(frozen=True)
class ConversionSummary:
    """What `convert` wrote."""

    files: tuple[str, ...]
    num_records: int
    columns: dict[str, str]  # name to type, such as int64 or float32[4]

    def __str__(self) -> str:
        columns = ", ".join(f"{name} ({kind})" for name, kind in self.columns.items())
        where = self.files[0]
        if len(self.files) > 1:
            where = f"{len(self.files):,} files, {where} … {self.files[-1]}"
        return f"{self.num_records:,} records in {where}: {columns}"


def convert(
    inputs: str | Sequence[str],
    output: str | os.PathLike[str],
    *,
    compressor: Compressor | str = Compressor.SNAPPY,
    num_shards: int | None = None,
    records_per_file: int | None = None,
    column_types: Mapping[str, str] | None = None,
    delimiter: str = ",",
    chunk_bytes: int = _CHUNK_BYTES,
    overwrite: bool = False,
) -> ConversionSummary:
    """Convert files of any format, CSV and NumPy included, to another; rows keep their order.

    The output's suffix says the format: ``.recordio`` and ``.tfrecord`` get one Example a row (from
    each other the records themselves, whatever they are), ``.parquet``, ``.arrow``, ``.feather``
    and ``.csv`` columns.

    The output is one file, or with `num_shards` or `records_per_file` several, in whose names
    ``-00000-of-00004`` stands before the suffix. They appear when all of them are written.

    Args:
      inputs: paths and globs, a list or separated by commas; all of one format.
      output: the file to write.
      compressor: of RecordIO: "none", "snappy" or "gzip".
      num_shards: how many files, equal in size to one record.
      records_per_file: how many records a file; the last may have fewer.
      column_types: types by column name in place of the files' own or, of CSV, the inferred.
      delimiter: for CSV.
      chunk_bytes: bytes of records in a chunk of RecordIO.
      overwrite: replace files that exist; else they are an error.

    Raises:
      UsageError: an argument is wrong, or the output exists.
      DataError: an input cannot be read; names file and line.
    """
    compressor = Compressor.parse(compressor)
    for option, number in (("num_shards", num_shards), ("records_per_file", records_per_file)):
        if number is not None and number < 1:
            raise UsageError(f"{option} '{number}': not a positive number")
    if num_shards and records_per_file:
        raise UsageError(
            f"num_shards '{num_shards}': records_per_file is given too; give one of them"
        )
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    paths = [path for pattern in patterns for path in find_files(pattern, "inputs")]
    target = Path(output)
    present = _present(target)
    if any(os.path.samefile(path, file) for path in paths for file in present):
        raise UsageError(f"output '{target}': is one of the inputs; name another file")
    if present and not overwrite:
        raise UsageError(f"output '{present[0]}': exists; name another file or ask to overwrite it")
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"output '{target}': unknown suffix; one of {', '.join(SUFFIXES)}")
    with open_source(paths, column_types, delimiter) as source:
        if not source.num_records:
            raise UsageError(f"inputs '{paths[0]}': no rows; there is nothing to convert")
        sizes = _file_sizes(source.num_records, num_shards, records_per_file)
        if num_shards is None and records_per_file is None:
            files = [target]
        else:
            files = [_shard_path(target, number, len(sizes)) for number in range(len(sizes))]
        copied = isinstance(source, RecordSource) and suffix in _RECORD_SUFFIXES
        columns = {} if copied else describe(source)
        open_file = partial(open_sink, suffix, compressor=compressor, chunk_bytes=chunk_bytes)
        with _all_or_none(files, present) as directory:
            if copied:
                _copy_records(cast(RecordSource, source), directory, files, sizes, open_file)
            else:
                _write_tables(source, suffix, directory, files, sizes, open_file)
    return ConversionSummary(tuple(map(str, files)), source.num_records, columns)


def _write_tables(
    source: TableSource,
    suffix: str,
    directory: Path,
    files: list[Path],
    sizes: list[int],
    open_file: Callable[..., Sink],
) -> None:
    examples = suffix in _RECORD_SUFFIXES
    tables = _Rows(conformed(source) if examples else source.tables())
    first = tables.peek()
    for file, size in zip(files, sizes, strict=True):
        with open_file(directory / file.name, first.schema) as sink:
            for table in tables.take(size):
                sink.write(table)


def _copy_records(
    source: RecordSource,
    directory: Path,
    files: list[Path],
    sizes: list[int],
    open_file: Callable[..., Sink],
) -> None:
    records = source.records()
    for file, size in zip(files, sizes, strict=True):
        with open_file(directory / file.name, pa.schema([])) as sink:
            for record in islice(records, size):
                cast(ExampleSink, sink).write_record(record)


class _Rows:
    """The rows of tables, handed out in other portions."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._pending: pa.Table | None = None

    def peek(self) -> pa.Table:
        """Return a table of what comes next."""
        if self._pending is None or not len(self._pending):
            self._pending = next(self._tables)
        return self._pending

    def take(self, num_rows: int) -> Iterator[pa.Table]:
        """Iterate over the next rows."""
        while num_rows:
            table = self.peek()
            part, self._pending = table.slice(0, num_rows), table.slice(num_rows)
            num_rows -= len(part)
            yield part


@contextmanager
def _all_or_none(files: list[Path], present: list[Path]) -> Iterator[Path]:
    """Yield a directory to write files into, which replace those present when the block ends."""
    parent = files[0].parent
    directory = parent / f".{files[0].name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"output '{files[0]}': cannot be written ({error.strerror})") from error
    try:
        yield directory
        for file in files:
            (directory / file.name).replace(file)
        for file in set(present) - set(files):
            file.unlink(missing_ok=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _file_sizes(
    num_records: int, num_shards: int | None, records_per_file: int | None
) -> list[int]:
    if num_shards is None and records_per_file is None:
        return [num_records]
    if records_per_file is not None:
        full, rest = divmod(num_records, records_per_file)
        return [records_per_file] * full + [rest] * bool(rest)
    assert num_shards is not None
    if num_shards > num_records:
        raise UsageError(
            f"num_shards '{num_shards}': there are {num_records} rows; at most as many"
        )
    each, more = divmod(num_records, num_shards)
    return [each + 1] * more + [each] * (num_shards - more)


def _shard_path(target: Path, number: int, count: int) -> Path:
    return target.with_name(f"{target.stem}-{number:05d}-of-{count:05d}{target.suffix}")


def _present(target: Path) -> list[Path]:
    """Return what an earlier conversion to the same name left: the file, or its shards."""
    digits = "[0-9]" * 5
    shards = f"{glob.escape(target.stem)}-{digits}-of-{digits}{glob.escape(target.suffix)}"
    files = sorted(target.parent.glob(shards)) if target.parent.is_dir() else []
    if target.is_dir():
        raise UsageError(f"output '{target}': is a directory; name a file in it")
    return ([target] if target.exists() else []) + files
