"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elasticdl.errors import UsageError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def remove_temporary(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed left half written beside `path`."""
    target = Path(path)
    for one in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        one.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    Makes the directory where there is none. When the block raises, the temporary file is removed
    and whatever was at `path` stays.

    Raises:
      UsageError: the directory cannot be made or written to, or the disk is full or broken.
    """
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
