"""From CSV and NumPy files to RecordIO files of Examples."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from elasticdl.data.csv_source import CsvSource
from elasticdl.data.example import FeatureValue, encode
from elasticdl.data.numpy_source import NumpySource
from elasticdl.data.recordio import Compressor, Writer
from elasticdl.data.shards import find_files
from elasticdl.errors import UsageError

# A task reads whole chunks: small ones mean that it reads little more than its own records.
_CHUNK_BYTES = 1 << 20

_CSV_SUFFIXES = (".csv", ".csv.gz", ".data", ".data.gz", ".txt", ".txt.gz")
_NUMPY_SUFFIXES = (".npz", ".npy")


class Source(Protocol):
    """Rows to convert, counted before the first is read."""

    columns: dict[str, str]
    num_records: int

    def rows(self) -> Iterator[dict[str, FeatureValue]]:
        """Iterate over the rows."""


@dataclass(frozen=True)
class ConversionSummary:
    """What `convert` wrote."""

    files: tuple[str, ...]
    num_records: int
    columns: dict[str, str]  # name to int64, float32 or bytes

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
    """Convert CSV or NumPy files to RecordIO, one Example a row, in their order.

    The output is one file, or with `num_shards` or `records_per_file` several, in whose names
    ``-00000-of-00004`` stands before the suffix. They appear when all of them are written.

    Args:
      inputs: paths and globs, a list or separated by commas; all CSV, or all NumPy.
      output: the file to write.
      compressor: "none", "snappy" or "gzip".
      num_shards: how many files, equal in size to one record.
      records_per_file: how many records a file; the last may have fewer.
      column_types: for CSV, types by column name in place of the inferred ones; see `CsvSource`.
      delimiter: for CSV.
      chunk_bytes: bytes of records in a chunk.
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
    source = _open_source(paths, column_types, delimiter)
    if not source.num_records:
        raise UsageError(f"inputs '{paths[0]}': no rows; there is nothing to convert")
    sizes = _file_sizes(source.num_records, num_shards, records_per_file)
    if num_shards is None and records_per_file is None:
        files = [target]
    else:
        files = [_shard_path(target, number, len(sizes)) for number in range(len(sizes))]
    _write(source, files, sizes, compressor, chunk_bytes, present)
    return ConversionSummary(tuple(map(str, files)), source.num_records, source.columns)


def _write(
    source: Source,
    files: list[Path],
    sizes: list[int],
    compressor: Compressor,
    chunk_bytes: int,
    present: list[Path],
) -> None:
    parent = files[0].parent
    directory = parent / f".{files[0].name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"output '{files[0]}': cannot be written ({error.strerror})") from error
    try:
        rows = source.rows()
        for file, size in zip(files, sizes, strict=True):
            with Writer(directory / file.name, compressor, chunk_bytes) as writer:
                for row in islice(rows, size):
                    writer.write(encode(row))
        for file in files:
            (directory / file.name).replace(file)
        for file in set(present) - set(files):
            file.unlink(missing_ok=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _open_source(
    paths: list[str], column_types: Mapping[str, str] | None, delimiter: str
) -> Source:
    if all(path.endswith(_CSV_SUFFIXES) for path in paths):
        return CsvSource(paths, delimiter, column_types)
    if all(path.endswith(_NUMPY_SUFFIXES) for path in paths):
        if column_types:
            raise UsageError("column_types: for CSV only; NumPy arrays have their types")
        return NumpySource(paths)
    odd = next((path for path in paths if not path.endswith(_CSV_SUFFIXES + _NUMPY_SUFFIXES)), None)
    if odd is None:
        raise UsageError(f"inputs '{paths[0]}', …: CSV and NumPy files; convert one kind at a time")
    raise UsageError(
        f"inputs '{odd}': unknown suffix; {', '.join(_CSV_SUFFIXES + _NUMPY_SUFFIXES)}"
    )


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
