"""How many cores a process may use: of the machine, and of its container."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
VARIABLE = "ELASTICDL_CORES"
"""Tells a pod how many cores it asked for, rounded up; it may have no limit, and neighbours."""


def allowed_cores() -> int:
    """How many cores the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(cgroups: Path = CGROUPS) -> float | None:
    """How many cores' time the container has; None: as much as there is.

    Args:
      cgroups: where control groups are mounted, of either version.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroups / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        of_period = int((cgroups / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroups / "cpu" / "cpu.cfs_period_us").read_text())
        return of_period / period_us if of_period > 0 else None
    return None


def usable_cores() -> int:
    """How many cores this process may keep busy: more threads than that would be held up."""
    most = [float(allowed_cores())]
    quota = cpu_quota()
    if quota is not None:
        most.append(quota)
    asked_for = os.environ.get(VARIABLE, "")
    if asked_for.isdecimal() and int(asked_for):
        most.append(int(asked_for))
    return max(1, int(min(most)))
