"""How a process ended, and whether that was its own doing."""

from __future__ import annotations

import signal

from elasticdl.instance import STUCK_EXIT_CODE

# Signals by which the instance's own code crashed; any other signal is somebody else's doing.
CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)


def is_crash(exit_code: int) -> bool:
    """Whether a process ended by its own doing."""
    return exit_code >= 0 or -exit_code in CRASHES


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, in words."""
    if exit_code == STUCK_EXIT_CODE:
        return "its model code hung for longer than --task_timeout; its log says where"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
