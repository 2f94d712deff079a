"""Idle processes that have imported TensorFlow, which the supervisor makes workers of."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.early import READY
from elasticdl.master.exits import describe_exit
from elasticdl.worker.spare import Role

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


@dataclass
class _Spare:
    process: subprocess.Popen[bytes]
    line: socket.socket
    is_ready: bool = False


class Spares:
    """The spares of one job; for one thread, which outlives them: the kernel ends them with it.

    Args:
      number: how many are kept.
      job_dir: the job's directory.
      log: the file that their output goes to while they are idle.
      environment: of a worker's process.
      call: has that thread call something.
      on_change: called where `describe` would say something else.
    """

    def __init__(
        self,
        number: int,
        job_dir: Path,
        log: Path,
        environment: Callable[[], Mapping[str, str]],
        call: Callable[[Callable[[], None]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._number = number
        self._job_dir = job_dir
        self._log = log
        self._environment = environment
        self._call = call
        self._on_change = on_change
        self._spares: dict[str, _Spare] = {}
        self._started = 0
        self._deaths = 0  # Since one became a worker.
        self._start_at = 0.0
        self._ended = False

    def describe(self) -> dict[str, Any]:
        """Process ids of all that are idle, and whether they are ready, by name."""
        return {
            name: {"pid": spare.process.pid, "is_ready": spare.is_ready}
            for name, spare in self._spares.items()
        }

    def keep(self) -> None:
        """Start those that are missing, unless some died: then more and more slowly."""
        while (
            not self._ended
            and len(self._spares) < self._number
            and time.monotonic() >= self._start_at
        ):
            self._start()

    def hand_over(self, arguments: list[str], log: Path) -> subprocess.Popen[bytes] | None:
        """Make a worker of one that is ready, if there is any.

        It may die of it: as the worker that it is by then.

        Args:
          arguments: of a worker's command line.
          log: the file that its output goes to.

        Returns:
          Its process.
        """
        line = Role(arguments, str(log)).to_line()
        for name, spare in self._spares.items():
            if not spare.is_ready:
                continue
            try:
                spare.line.sendall(line)
            except OSError:  # It has died, and nobody was told so far.
                continue
            spare.line.close()
            del self._spares[name]
            self._deaths, self._start_at = 0, 0.0
            logger.info("%s becomes %s", name, log.stem)
            return spare.process
        return None

    def end(self) -> None:
        """Kill all, and start no more."""
        self._ended = True
        if not self._spares:
            return
        for spare in self._spares.values():
            kill_group(spare.process.pid)
            spare.process.wait()
            spare.line.close()
        self._spares.clear()
        self._on_change()

    def _start(self) -> None:
        self._started += 1
        name = f"spare-{self._started}"
        arguments = [f"--job_dir={self._job_dir}"]
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "elasticdl.worker.spare", *arguments],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    start_new_session=True,
                )
        except OSError as error:  # No room for another process.
            ours.close()
            logger.warning("%s cannot be launched: %s", name, error)
            self._pause()
            return
        self._spares[name] = _Spare(process, ours)
        threading.Thread(target=self._watch, args=(name, process, ours.dup()), daemon=True).start()
        self._on_change()

    def _watch(self, name: str, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        with line, contextlib.suppress(OSError), line.makefile("rb") as said:
            if said.readline() == READY:
                self._call(lambda: self._ready(name))
        process.wait()
        self._call(lambda: self._died(name))

    def _ready(self, name: str) -> None:
        if name in self._spares:
            self._spares[name].is_ready = True
            self._on_change()

    def _died(self, name: str) -> None:
        spare = self._spares.pop(name, None)
        if spare is None:  # It had become a worker.
            return
        spare.line.close()
        kill_group(spare.process.pid)
        logger.info("%s ended while idle: %s", name, describe_exit(spare.process.returncode))
        self._pause()
        self._on_change()

    def _pause(self) -> None:
        self._deaths += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._deaths - 1, 10))
        self._start_at = time.monotonic() + pause_s


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and what is left of that."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
