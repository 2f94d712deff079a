"""Small files of a job that its master writes for others: its figures and its result.

A master whose state is in a directory of its own has them there, to give them away, and puts them
where the job's directory is as well: a directory, or a URI.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from elasticdl.data.filesystems import PATIENCE_S, file_system

logger = logging.getLogger(__name__)

COPY_S = 30.0
"""How often what changes all the time is put there, at most."""
_AGAIN_S = 1.0


class KeptFiles:
    """The files of one job, by name.

    Args:
      directory: of this machine.
      job_dir: path or URI where they are to be as well; empty: nowhere else.
    """

    def __init__(self, directory: str | os.PathLike[str], job_dir: str = "") -> None:
        self.directory = Path(directory)
        self._job_dir = job_dir
        self._lock = threading.Lock()
        self._copied_at = float("-inf")
        self._copying: threading.Thread | None = None

    def fetch(self, name: str) -> None:
        """Bring here what a former master kept, where this machine has nothing of it."""
        path = self.directory / name
        if not self._job_dir or path.exists():
            return
        try:
            files, there = file_system(os.path.join(self._job_dir, name))
            content = files.read(there)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("%s of the master before this one: %s", name, error)
            return
        put_at(str(path), content)

    def write(self, name: str, content: bytes, wait_until_sure: Callable[[], None]) -> None:
        """Make or replace a file; who finds it here, finds it there as well.

        Args:
          wait_until_sure: returns at a moment at which this is the job's one master.

        Raises:
          OSError: it cannot be written where the job's directory is.
        """
        if self._job_dir:
            self._put(name, content, wait_until_sure)
        wait_until_sure()
        try:
            put_at(str(self.directory / name), content)
        except OSError as error:
            if not self._job_dir:
                raise
            logger.warning("%s is at '%s' alone: %s", name, self._job_dir, error)

    def _put(self, name: str, content: bytes, wait_until_sure: Callable[[], None]) -> None:
        """Try for as long as an instance waits for a store, but only while this is the master."""
        files, there = file_system(os.path.join(self._job_dir, name), patience_s=0.0)
        ends = time.monotonic() + PATIENCE_S
        while True:
            wait_until_sure()
            try:
                files.put(there, content)
                return
            except ConnectionError as error:
                if time.monotonic() > ends:
                    raise
                logger.warning("'%s' is put again: %s", there, error)
            time.sleep(_AGAIN_S)

    def copy_if_due(self, name: str) -> None:
        """Put there what is here, in a thread of its own, if that was some time ago."""
        now = time.monotonic()
        is_busy = self._copying is not None and self._copying.is_alive()
        if not self._job_dir or is_busy or now < self._copied_at + COPY_S:
            return
        self._copied_at = now
        self._copying = threading.Thread(target=self.copy, args=(name,), name=name, daemon=True)
        self._copying.start()

    def copy(self, name: str) -> None:
        """Put there what is here; a job is no worse without it."""
        if not self._job_dir:
            return
        try:
            with self._lock:
                content = (self.directory / name).read_bytes()
                put_at(os.path.join(self._job_dir, name), content, patience_s=0.0)
        except OSError as error:
            logger.warning("%s is not put into '%s': %s", name, self._job_dir, error)


def put_at(path: str, content: bytes, patience_s: float | None = None) -> None:
    """Make or replace a file or an object, as a whole.

    Raises:
      OSError: it cannot be written.
    """
    files, there = file_system(path, patience_s)
    files.put(there, content)
