"""What happened to a job, by its name or directory."""

from __future__ import annotations

from collections.abc import Iterator

from elasticdl.api.job_backends import PLACE
from elasticdl.dashboard.events import JobEvent

__all__ = ["JobEvent", "events"]


def events(job: str) -> Iterator[JobEvent]:
    """Yield what happened to a job so far, in order, also while it runs.

    Raises:
      UsageError: there is no such job.
      JobError: its journal cannot be read.
    """
    yield from PLACE.find(job).events()
