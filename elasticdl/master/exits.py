"""How a process or a pod ended, and whether that was its own doing."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from elasticdl.instance import ORPHAN_EXIT_CODE, STUCK_EXIT_CODE

# Signals by which the instance's own code crashed; any other signal is somebody else's doing.
CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)

# What a kubelet says of whom it evicts that had more memory than it had asked for, since 1.27 and
# before.
_HAD_MORE = ("has larger consumption of memory", "exceeds its request")


def is_crash(exit_code: int) -> bool:
    """Whether a process ended by its own doing."""
    return (exit_code >= 0 and exit_code != ORPHAN_EXIT_CODE) or -exit_code in CRASHES


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, in words."""
    if exit_code == STUCK_EXIT_CODE:
        return "its model code hung for longer than --task_timeout; its log says where"
    if exit_code == ORPHAN_EXIT_CODE:
        return "no master answered it any more"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


class Cause(StrEnum):
    """Why an instance ended.

    NOT_STARTED with no exit code: it was refused; with one: nobody could start its container.
    """

    EXITED = "exited"
    KILLED = "killed"
    OUT_OF_MEMORY = "out of memory"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    NODE_LOST = "node lost"
    DELETED = "deleted"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class End:
    """How an instance ended.

    exit_code: negative for a signal; 0 where there is none. message: as the cluster says it.
    log_tail: what to say of its log after all else: `; the end of PATH:` and lines, or nothing.
    """

    cause: Cause
    exit_code: int = 0
    message: str = ""
    log_tail: str = ""

    @classmethod
    def of_exit_code(cls, exit_code: int) -> End:
        """The end of a process of which no more is known; negative exit codes are signals."""
        return cls(Cause.EXITED if exit_code >= 0 else Cause.KILLED, exit_code)

    @property
    def is_crash(self) -> bool:
        """Whether it ended by its own doing, or nobody could start its container."""
        if self.cause is Cause.NOT_STARTED:
            return not self.is_refused
        return self.cause in (Cause.EXITED, Cause.KILLED) and is_crash(self.exit_code)

    @property
    def is_refused(self) -> bool:
        """Whether the cluster will not have it: another one like it will fare no better."""
        return self.cause is Cause.NOT_STARTED and self.exit_code == 0

    @property
    def is_out_of_memory(self) -> bool:
        """Whether it had too little memory: also for its node, where it had more than asked for."""
        if self.cause is not Cause.EVICTED or "resource: memory" not in self.message:
            return self.cause is Cause.OUT_OF_MEMORY
        return any(words in self.message for words in _HAD_MORE)

    def describe(self) -> str:
        """Say how it ended."""
        if self.cause in (Cause.EXITED, Cause.KILLED):
            return describe_exit(self.exit_code)
        return f"{self.cause}: {self.message}" if self.message else str(self.cause)
