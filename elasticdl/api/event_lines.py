"""What happens to a job, for programs: one JSON object a line on stdout, the result last."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from elasticdl.api.result import JobStatus
from elasticdl.dashboard.events import JobEvents
from elasticdl.dashboard.finite import finite
from elasticdl.errors import JobError
from elasticdl.masking import masked
from elasticdl.master.journal import FILE_NAME

MESSAGE = "message"
"""What people are told before the first event."""


class EventLines:
    """The events of a job, in the form of `elasticdl jobs events --json`, as they come.

    Args:
      job_dir: of a job that is there or not yet; what has happened to it before is not told.
      stream: where they are printed.
    """

    def __init__(self, job_dir: str | Path, stream: TextIO) -> None:
        self._journal = Path(job_dir) / FILE_NAME
        self._stream = stream
        self._message = ""
        self._has_begun = False
        self._events = JobEvents(job_dir)
        for _ in self._new():
            pass

    def show(self, status: JobStatus) -> None:
        """Print what is new; of what people are told, only what no event tells."""
        is_news = status.message and status.message != self._message
        if is_news and not self._has_begun:
            self._message = status.message
            text = masked(status.message)
            self._print({"number": 0, "time": time.time(), "kind": MESSAGE, "text": text})
        self.read()

    def read(self) -> None:
        """Print the events that are new."""
        for event in self._new():
            self._has_begun = True
            self._print(event)

    def _new(self) -> Iterator[dict[str, Any]]:
        if not self._journal.exists():
            return
        try:
            for event in self._events.read():
                yield event.to_json()
        except JobError:  # It is being made.
            return

    def _print(self, event: dict[str, Any]) -> None:
        print(json.dumps(finite(event)), file=self._stream, flush=True)
