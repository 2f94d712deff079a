"""Files that say, by being locked, that a process does something that only one may do."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from elasticdl.errors import JobError

PAUSE_S = 0.05


def is_owned(path: Path) -> bool:
    """Whether a process owns a file; for a moment, nobody else can."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def own_file(path: Path, wait_s: float = 0.0) -> IO[bytes] | None:
    """Own a file until it is closed or this process ends, however it ends.

    Args:
      wait_s: how long to wait for another owner to end.

    Returns:
      None if another process, or another part of this one, owns it.

    Raises:
      JobError: it cannot be made.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}; it has to be writable") from None
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
        time.sleep(PAUSE_S)
