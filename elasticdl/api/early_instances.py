"""Starts a job's first instances before the job is there: their imports take no time of it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elasticdl.api.spares import kill_group
from elasticdl.cores import usable_cores
from elasticdl.early import EARLY, READY
from elasticdl.master.instances import InstanceSpec


@dataclass
class _Early:
    process: subprocess.Popen[bytes]
    line: socket.socket
    is_importing: bool = True


class EarlyInstances:
    """Instances of one job that import what they need, and wait; see `elasticdl.early`.

    For one thread, which outlives them: the kernel ends them with it. Until they are handed over
    their output goes where this process's goes. One core is left to others while they import.

    Args:
      wanted: which, the first to be started first.
      command: of an instance.
      environment: of all.
      inherited: the descriptors that an instance gets.
      call: has that thread call something.
    """

    def __init__(
        self,
        wanted: Sequence[InstanceSpec],
        command: Callable[[InstanceSpec], list[str]],
        environment: Mapping[str, str],
        inherited: Callable[[InstanceSpec], Sequence[int]],
        call: Callable[[Callable[[], None]], None],
    ) -> None:
        self._wanted = list(wanted)
        self._command = command
        self._environment = environment
        self._inherited = inherited
        self._call = call
        self._at_a_time = max(1, usable_cores() - 1)
        self._started: dict[InstanceSpec, _Early] = {}

    def start(self) -> None:
        """Start those whose turn it is."""
        while (
            self._wanted
            and sum(one.is_importing for one in self._started.values()) < self._at_a_time
        ):
            self._start(self._wanted.pop(0))

    def hand_over(self, spec: InstanceSpec, log: Path) -> subprocess.Popen[bytes] | None:
        """Let an instance begin; None where it was not started early, or has died.

        Args:
          log: the file that its output goes to from now on.
        """
        if spec in self._wanted:
            self._wanted.remove(spec)
        early = self._started.pop(spec, None)
        if early is None:
            return None
        with early.line:
            try:
                early.line.sendall(f"{log}\n".encode())
            except OSError:
                early.process.wait()
                return None
        return early.process

    def end(self) -> None:
        """Kill those that were not handed over, and start no more."""
        self._wanted.clear()
        for early in self._started.values():
            kill_group(early.process.pid)
            early.process.wait()
            early.line.close()
        self._started.clear()

    def _start(self, spec: InstanceSpec) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    [*self._command(spec), EARLY],
                    stdin=theirs.fileno(),
                    env=self._environment,
                    pass_fds=self._inherited(spec),
                    start_new_session=True,
                )
        except OSError:  # No room for another process: it is for whoever launches it to say so.
            ours.close()
            return
        self._started[spec] = early = _Early(process, ours)
        threading.Thread(target=self._listen, args=(early, ours.dup()), daemon=True).start()

    def _listen(self, early: _Early, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError), line.makefile("rb") as said:
            said.read(len(READY))  # Or nothing, where it has died.
        self._call(lambda: self._has_imported(early))

    def _has_imported(self, early: _Early) -> None:
        early.is_importing = False
