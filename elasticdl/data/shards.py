"""Which data files a job reads: from a pattern to shards with their numbers of records."""

from __future__ import annotations

import difflib
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from elasticdl.data.filesystems import file_system, is_remote
from elasticdl.data.readers import Reader, detect_format, open_reader
from elasticdl.data.recordio import DEFAULT_MAX_CHUNK_BYTES
from elasticdl.errors import DataError, UsageError

SHARDS_FILE = "shards.json"
_FILES_SHOWN = 3
_OBJECTS_AT_A_TIME = 16


@dataclass(frozen=True)
class Shard:
    """One data file, or a shard of the user's own reader.

    Attributes:
      path: absolute; what a reader of the user's calls the shard.
      num_records: how many there are.
      start: number of the first; 0 in files.
    """

    path: str
    num_records: int
    start: int = 0


def find_shards(
    pattern: str, max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES, option: str = "data"
) -> list[Shard]:
    """Return the data files a pattern names, sorted by path, each once; all of one format.

    Args:
      pattern: paths and globs, separated by commas; a path that exists is taken as it is.
      max_chunk_bytes: the largest chunk accepted.
      option: what the pattern was given as, for the errors.

    Raises:
      UsageError: nothing there, no match, a file without records, or files of several formats or
        with other columns.
      DataError: a file that is broken, or of no known format.
    """
    shards: list[Shard] = []
    first_format, names = "", None
    for path, file_format, open_it in _opened(find_files(pattern, option), max_chunk_bytes):
        if shards and file_format != first_format:
            raise UsageError(
                f"{option} '{path}': is {file_format}, '{shards[0].path}' is {first_format}; "
                "name files of one format"
            )
        first_format = file_format
        reader = open_it()
        if not reader.num_records:
            raise UsageError(f"{option} '{path}': has no records; name files that have some")
        if reader.is_table:
            if names is not None and set(names) != set(reader.names()):
                odd = sorted(set(names) ^ set(reader.names()))
                raise UsageError(
                    f"{option} '{path}': column '{odd[0]}' is not in both, it and "
                    f"'{shards[0].path}'; files of one job have the same columns"
                )
            names = reader.names()
        shards.append(Shard(path, reader.num_records))
    return shards


def _opened(
    paths: list[str], max_chunk_bytes: int
) -> Iterator[tuple[str, str, Callable[[], Reader]]]:
    """Iterate over files with their formats and what opens them; objects some at a time."""

    def open_one(path: str) -> tuple[str, str, Callable[[], Reader]]:
        file_format = detect_format(path)
        reader = partial(open_reader, path, max_chunk_bytes, file_format)
        if is_remote(path):
            ready = reader()
            return path, file_format, lambda: ready
        return path, file_format, reader

    if not any(map(is_remote, paths)):
        yield from map(open_one, paths)
        return
    with ThreadPoolExecutor(_OBJECTS_AT_A_TIME, "shards") as pool:
        yield from pool.map(open_one, paths)


def save_shards(directory: str | os.PathLike[str], shards: Mapping[str, Any]) -> None:
    """Write the shards that the user's own reader declared, by option, into a job's directory."""
    files, path = file_system(os.path.join(directory, SHARDS_FILE))
    files.put(path, json.dumps(shards).encode())


def load_shards(directory: str | os.PathLike[str], option: str = "data") -> list[Shard] | None:
    """Return the shards that were saved for an option; None where the data are files."""
    files, path = file_system(os.path.join(directory, SHARDS_FILE))
    try:
        saved = json.loads(files.read(path))
    except FileNotFoundError:
        return None
    return [Shard(*each) for each in saved.get(option, [])]


def find_files(pattern: str, option: str = "data") -> list[str]:
    """Return the absolute paths, or URIs, of the files that a pattern of `find_shards` names.

    Raises:
      UsageError: a path does not exist or is no file, or a glob matches nothing.
    """
    paths: set[str] = set()
    parts = [pattern] if os.path.exists(pattern) else pattern.split(",")
    for part in (part.strip() for part in parts):
        if not part:
            raise UsageError(
                f"{option} '{pattern}': names no file; a path or a glob, 'DIR/*.recordio'"
            )
        if is_remote(part):
            paths.update(_find_objects(part, option))
            continue
        part = os.path.expanduser(part)
        if os.path.exists(part):
            matches = [part]
        elif glob.has_magic(part):
            matches = [match for match in glob.glob(part, recursive=True) if os.path.isfile(match)]
            if not matches:
                raise UsageError(f"{option} '{part}': matches no file; {_what_is_there(part)}")
        else:
            raise UsageError(f"{option} '{part}': no such file; {_what_is_there(part)}")
        for match in matches:
            if os.path.isdir(match):
                raise UsageError(
                    f"{option} '{part}': is a directory; name its files: "
                    f"'{os.path.join(part, '*.recordio')}'"
                )
            if not os.path.isfile(match):
                raise DataError(f"{option} '{part}': not a regular file")
            paths.add(os.path.abspath(match))
    return sorted(paths)


def _find_objects(part: str, option: str) -> list[str]:
    """Return the objects that a URI, or a pattern of them, names.

    Raises:
      UsageError: there are none, or the store does not say.
    """
    try:
        files, path = file_system(part)
        if files.info(path) is not None:
            return [path]
        found = files.glob(path) if glob.has_magic(path) else []
        if found:
            return found
        directory, name = path.rsplit("/", 1)
        if not glob.has_magic(path) and files.glob(f"{path}/*"):
            raise UsageError(
                f"{option} '{part}': is a directory; name its files: '{path}/*.recordio'"
            )
        known = [] if glob.has_magic(directory) else files.glob(f"{directory}/*")
    except OSError as error:
        raise UsageError(f"{option} '{part}': {error.strerror}") from error
    what = "matches no object" if glob.has_magic(path) else "no such object"
    raise UsageError(f"{option} '{part}': {what}; {_hint(directory, name, known)}")


def _what_is_there(part: str) -> str:
    """Say which files of its directory somebody may have meant by a path or glob."""
    directory, name = os.path.split(part)
    if glob.has_magic(directory):
        return _hint(directory, name, [])
    if not os.path.isdir(directory or "."):
        return f"there is no directory '{directory}'; {_hint(directory, name, [])}"
    with os.scandir(directory or ".") as entries:
        names = sorted(one.name for one in entries if one.is_file() and one.name[0] != ".")
    return _hint(directory, name, names)


def _hint(directory: str, name: str, paths: Sequence[str]) -> str:
    """Say which of the files of a directory, known by name or path, may have been meant."""
    names = [os.path.basename(path) for path in paths]
    ending = os.path.splitext(name)[1] or ".recordio"
    ending = ".recordio" if glob.has_magic(ending) else ending
    right = f"give a path or a pattern such as data/*{ending}"
    names = [one for one in names if one.endswith(ending)] or names
    of_stem = {os.path.splitext(one)[0]: one for one in reversed(names)}  # Endings are all alike.
    close = difflib.get_close_matches(os.path.splitext(name)[0], of_stem, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{os.path.join(directory, of_stem[close[0]])}'?"
    alike = [one for one in names if one.endswith(ending)][:_FILES_SHOWN]
    there = f"the directory has {', '.join(map(repr, alike))}; " if alike else ""
    return f"{there}{right}"
