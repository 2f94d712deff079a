"""Where the values come from that a job is watched by; docs/decisions/watching.md has all."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import elasticdl
from elasticdl.dashboard.events import JobEvent
from elasticdl.dashboard.finite import finite
from elasticdl.job_spec import JobSpec
from elasticdl.logs.files import find_logs, log_path
from elasticdl.master.history import COLUMNS, Row

Values = dict[str, Any]
MOST_LOG_BYTES = 1 << 20
MOST_EVENTS = 20_000


class Source(Protocol):
    """A job, running or ended. Thread-safe; what it returns is plain, and nobody's to change."""

    def job(self) -> Values:
        """What it is."""
        ...

    def state(self) -> Values:
        """Where it stands."""
        ...

    def history(self, after: float = 0.0) -> Values:
        """Its numbers over time; only those after a time, in seconds since 1970."""
        ...

    def events(
        self,
        after: int = 0,
        limit: int = MOST_EVENTS,
        with_tasks: bool = False,
        newest: bool = False,
    ) -> Values:
        """What happened after an event's number, in order, at most so many: the first, or newest.

        `last`: the number to go on after, which leaves nothing out but what is older than these.
        """
        ...

    def log(self, role: str, index: int, incarnation: int | None, most_bytes: int) -> Values:
        """The end of an instance's log and its first error; of the newest life if none is said."""
        ...

    def counters(self) -> Values:
        """What only metrics tell besides; empty where nobody counts any more."""
        ...


def describe_job(spec: JobSpec, began: float) -> Values:
    """Return what `Source.job` does."""
    return {
        "name": spec.job_name,
        "directory": spec.job_dir,
        "command": spec.command,
        "began": began,
        "version": elasticdl.__version__,
        "options": spec.to_options(),
    }


def describe_events(
    found: Sequence[JobEvent], after: int, limit: int, newest: bool = False
) -> Values:
    """Return what `Source.events` does."""
    new = [one for one in found if one.number > after]
    told = new[max(0, len(new) - limit) :] if newest else new[: max(0, limit)]
    last = (new if newest else told)[-1:]
    return {
        "events": [finite(one.to_json()) for one in told],
        "last": last[0].number if last else after,
    }


def describe_history(
    interval_s: float, rows: Sequence[Row], found: Sequence[JobEvent], after: float
) -> Values:
    """Return what `Source.history` does; `found` has the evaluations."""
    return {
        "interval_s": interval_s,
        "columns": list(COLUMNS),
        "rows": [finite(list(row)) for row in rows],
        "evaluations": [
            {
                "at": one.time,
                "epoch": one.body.get("epoch", 0) + 1,
                "steps": one.body.get("steps", 0),
                "metrics": numbers(one.body["metrics"]),
            }
            for one in found
            if one.mark == "evaluation" and one.time > after
        ],
    }


def describe_log(
    job_dir: str | Path, role: str, index: int, incarnation: int | None, most_bytes: int
) -> Values:
    """Return what `Source.log` does."""
    logs = find_logs(job_dir, role, index)
    if incarnation is not None and role != "master":
        logs = [one for one in logs if one.incarnation == incarnation]
    if not logs:
        path = log_path(job_dir, role, index, incarnation or 1)
        return {"path": str(path), "tail": "", "first_error": None}
    log = logs[-1]
    error = log.first_error()
    lines = log.last_lines(min(max(0, most_bytes), MOST_LOG_BYTES))
    return {
        "path": str(log.path),
        "tail": "".join(f"{one}\n" for one in lines),
        "first_error": None if error is None else str(error),
    }


def numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are finite."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def now() -> float:
    """Seconds since 1970, as values have them."""
    return round(time.time(), 3)
