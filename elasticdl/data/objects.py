"""Objects that are read in parts: what tells one from another, how it is opened and read."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from elasticdl.data.filesystems import InputFile, file_system
from elasticdl.errors import DataError

Identity: TypeAlias = tuple[str, int, int, int]
"""Whole path, inode (0 of objects), modification time in nanoseconds, size."""


def object_identity(path: str, what: str) -> Identity:
    """Return what tells an object from another one of its name, later.

    Raises:
      DataError: it is missing, or the store does not say.
    """
    try:
        files, path = file_system(path)
        found = files.info(path)
    except OSError as error:
        raise DataError(f"{what} file '{path}': {error.strerror}") from error
    if found is None:
        raise DataError(f"{what} file '{path}': no such object; name one that can be read")
    return path, 0, found.mtime_ns, found.size


def open_object(known: Identity) -> InputFile:
    """Open an object.

    Raises:
      OSError: it cannot be opened.
    """
    files, path = file_system(known[0])
    return files.open_input(path)


@lru_cache(maxsize=256)
def opened(known: Identity) -> InputFile:
    """Return an object that may be open already, of which only `read_at` is to be used.

    Raises:
      OSError: it cannot be opened.
    """
    return open_object(known)


def unread(what: str, why: Exception, right: str) -> DataError:
    """Return the error of a file of which something could not be read.

    Args:
      what: names the file, and the part.
      why: what was raised.
      right: what would be right, if the file is not.
    """
    if isinstance(why, FileNotFoundError | PermissionError | ConnectionError):
        return DataError(f"{what} {why.strerror}")
    return DataError(f"{what} {str(why).splitlines()[0]}; {right}")
