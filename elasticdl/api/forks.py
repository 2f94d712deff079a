"""Workers that are forked from one process that has imported what they need, the zygote."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from elasticdl.api.spares import kill_group
from elasticdl.early import READY
from elasticdl.worker.spare import Role

logger = logging.getLogger(__name__)

FORK_S = 10.0
_LAST_WORDS_S = 1.0
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def can_fork() -> bool:
    """Whether processes with TensorFlow may be forked here.

    That the drivers of GPUs bear it nobody promises; other systems cannot give a process a parent
    that did not fork it.
    """
    return sys.platform == "linux" and not any(Path(each).exists() for each in _GPU_FILES)


class ForkedProcess:
    """A child of this process that another one has forked; `wait` is for one thread."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Return how it ended, as `subprocess.Popen.wait` does, once it has."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def terminate(self) -> None:
        """Ask for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


class Forks:
    """One zygote, `elasticdl.api.zygote`, and the workers forked from it.

    This process must adopt orphans.
    For one thread, which outlives all: the kernel ends them with it. Without `start` there is none.

    Args:
      command: of the zygote; it is to be as long as a worker's, to be shown as one.
      environment: of a worker.
      call: has that thread call something.
      inherited: files for the zygote alone.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        call: Callable[[Callable[[], None]], None],
        inherited: Sequence[int] = (),
    ) -> None:
        self._command = command
        self._environment = environment
        self._call = call
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._is_ready = False

    def start(self) -> None:
        """Start the zygote; where there is no room for it, workers are started without one."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    env=self._environment,
                    pass_fds=self._inherited,
                    start_new_session=True,
                )
        except OSError as error:
            logger.warning("workers are not forked: %s", error)
            ours.close()
            return
        finally:
            for each in self._inherited:
                os.close(each)
        self._line = ours
        threading.Thread(target=self._listen, args=(ours.dup(),), daemon=True).start()

    def fork(self, arguments: Sequence[str], log: Path) -> ForkedProcess | None:
        """Fork a worker; None where the zygote is not ready, or has died.

        Args:
          arguments: of a worker's command line.
          log: the file that its output goes to.
        """
        if not self._is_ready or self._line is None:
            return None
        answer = b""
        try:
            self._line.settimeout(FORK_S)
            self._line.sendall(Role(arguments, str(log)).to_line())
            while not answer.endswith(b"\n") and (more := self._line.recv(64)):
                answer += more
        except OSError as error:
            logger.warning("the process that forks workers: %s", error)
        if not answer.endswith(b"\n"):
            logger.warning("workers are not forked any more: the process for it is lost")
            self.end(answer)
            return None
        pid = int(answer)
        return ForkedProcess(pid) if pid else None

    @property
    def pid(self) -> int | None:
        """Of the zygote, if there is one."""
        return None if self._process is None else self._process.pid

    def end(self, answer: bytes = b"") -> None:
        """Kill the zygote, which leaves the workers alone.

        Args:
          answer: what has come of one; the worker that it names is not known, and killed.
        """
        self._is_ready = False
        if self._process is None or self._line is None:
            return
        kill_group(self._process.pid)
        self._process.wait()
        with contextlib.suppress(OSError):
            self._line.settimeout(_LAST_WORDS_S)
            while more := self._line.recv(64):
                answer += more
        for pid in filter(None, map(int, answer.split(b"\n")[:-1])):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._line.close()
        self._process = self._line = None

    def _listen(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            if line.recv(len(READY)) == READY:
                self._call(self._ready)

    def _ready(self) -> None:
        self._is_ready = self._process is not None
