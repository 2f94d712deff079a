"""`python -m elasticdl.api.pod ROLE …`: the first process of a pod's container.

It starts the role's process with the arguments that it was given, and stays as its parent: hands
signals on, reaps whoever lost its own parent, and says how it ended by its own exit code. A master
that crashes is started again where it is, sooner than a kubelet would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import yaml

from elasticdl.api.image.kernels import kernel_variables
from elasticdl.instance import adopt_orphans, child_environment
from elasticdl.job_spec import CHECKED_FILE, JOB_FILE
from elasticdl.master.cluster.kubernetes.pod_state import OUT_OF_MEMORY_EXIT_CODE

MODULES = {
    "master": "elasticdl.api.pod_master",
    "ps": "elasticdl.ps",
    "worker": "elasticdl.worker",
    "check": "elasticdl.api.pod_check",
}
ENDED_VARIABLE = "ELASTICDL_MASTER_ENDED"
"""How the master ended that ran in this container before: as `Popen.returncode`, or 77."""
STEPPED_DOWN = 128 + signal.SIGTERM
"""Exit code of a master that goes so that another one comes: it is not started again here."""
MOST_RESTARTS = 10
"""So often a master is started again that lived for less than `LIVED_S`; the kubelet does then."""
LIVED_S = 600.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_KILLS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),  # Of version 1.
)


class Parent:
    """Runs one process after the other, and hands on the signals that this one gets."""

    def __init__(self) -> None:
        self._is_told = False
        self._child = 0
        self._pending: list[int] = []
        for number in _HANDED_ON:
            signal.signal(number, self._hand_on)

    def is_told(self) -> bool:
        """Whether SIGTERM came."""
        return self._is_told

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a process to its end.

        Returns:
          its exit code; negative: the signal that ended it.
        """
        before = oom_kills()
        self._child = os.posix_spawn(command[0], list(command), environment)
        while self._pending:
            os.kill(self._child, self._pending.pop())
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self._child:
                break
        self._child = 0
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL and oom_kills() > before:
            return OUT_OF_MEMORY_EXIT_CODE
        return code

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._is_told = self._is_told or number == signal.SIGTERM
        if self._child:
            with contextlib.suppress(ProcessLookupError):  # It has ended just now.
                os.kill(self._child, number)
        else:
            self._pending.append(number)


def oom_kills(files: Sequence[Path] = _KILLS) -> int:
    """How many processes of this container were killed for want of memory, as far as is known."""
    for path in files:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def run_again(parent: Parent, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a master, and the next one where it crashed; return how the last one ended."""
    environment, restarts = dict(environment), 0
    while True:
        began = time.monotonic()
        code = parent.run(command, environment)
        if code in (0, STEPPED_DOWN) or parent.is_told():
            return code
        restarts = 1 if time.monotonic() - began > LIVED_S else restarts + 1
        if restarts > MOST_RESTARTS:
            return code
        environment[ENDED_VARIABLE] = str(code)
        print(f"the master ended ({code}); another one is started", file=sys.stderr, flush=True)
        if restarts > 1:
            time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (restarts - 2)))
        if parent.is_told():
            return code


def exit_code(code: int) -> int:
    """How a process says that its child ended so: an own signal would be ignored by process 1."""
    return code if code >= 0 else 128 - code


def keras_of(description: Path) -> str | None:
    """Which Keras the job uses, by what the check resolved or by what it was asked for."""
    for name in (CHECKED_FILE, JOB_FILE):
        try:
            found = yaml.safe_load((description / name).read_text()) or {}
        except OSError:
            continue
        if found.get("keras"):
            return str(found["keras"])
    return None


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    if not arguments or arguments[0] not in MODULES:
        print(f"usage: python -m elasticdl.api.pod {'|'.join(MODULES)} …", file=sys.stderr)
        return 2
    role, *given = arguments
    adopt_orphans()
    parent = Parent()
    description = next(
        (one.partition("=")[2] for one in given if one.startswith("--description=")), "."
    )
    environment = {**child_environment(keras_of(Path(description))), **kernel_variables()}
    command = [sys.executable, "-P", "-m", MODULES[role], *given]
    if role == "master":
        return exit_code(run_again(parent, command, environment))
    return exit_code(parent.run(command, environment))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
