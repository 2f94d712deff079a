"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elasticdl.data.filesystems import file_system, is_remote
from elasticdl.errors import UsageError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def remove_temporary(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed left half written beside `path`."""
    if is_remote(path):
        return  # Where there is nothing of the kind.
    target = Path(path)
    for one in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        one.unlink(missing_ok=True)


@contextmanager
def _put_at_the_end(path: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="elasticdl-") as directory:
        temporary = Path(directory, path.rsplit("/", 1)[-1])
        temporary.touch()
        try:
            yield temporary
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise UsageError(
                f"output '{path}': is written in '{directory}' first, which cannot be written "
                f"({error.strerror}); set TMPDIR"
            ) from error
        try:
            files, whole = file_system(path)
            files.put_file(whole, temporary)
        except OSError as error:
            raise UsageError(f"output '{path}': {error.strerror}") from error


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    Makes the directory where there is none. When the block raises, the temporary file is removed
    and whatever was at `path` stays. An object is written here first, and put when the block ends.

    Raises:
      UsageError: the directory cannot be made or written to, or the disk is full or broken; or the
        store does not take the object.
    """
    if is_remote(path):
        with _put_at_the_end(os.fspath(path)) as temporary:
            yield temporary
        return
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
    except OSError as error:
        with suppress(OSError):  # It may lie below a file; the first error says what is wrong.
            temporary.unlink()
        raise UsageError(
            f"output '{target}': cannot be written ({error.strerror}); "
            "name a file in a directory you may write to"
        ) from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UsageError(f"output '{target}': cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
