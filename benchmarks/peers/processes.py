"""Processes seen from outside: which cores they may use, and the processor time they have used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pin(pid: int, cores: Iterable[int]) -> None:
    """Let all threads that a process has use these cores only; those that they start will, too."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # This thread has ended.


def is_pinned(pid: int, cores: Iterable[int]) -> bool:
    """Whether all threads of a process may use exactly these cores."""
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(os.sched_getaffinity(thread) == set(cores) for thread in threads)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process so far, user's and system's."""
    # The name, in parentheses, may have spaces; the times are fields 14 and 15, counted from 1.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
