"""Show a running job: a live view on a terminal, plain lines elsewhere, events for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from elasticdl.api.result import JobStatus, metrics_line
from elasticdl.job_spec import JobSpec
from elasticdl.masking import masked

OnStatus = Callable[[JobStatus], None]

PLAIN_LINE_EVERY_S = 5.0


@contextmanager
def open_progress(job_spec: JobSpec) -> Iterator[OnStatus]:
    """Give what shows each `JobStatus`, for as long as the job runs.

    Progress goes to stdout, or to stderr where the result's JSON goes to stdout. Statuses may come
    from any one thread at a time.
    """
    stream = sys.stderr if job_spec.print_json else sys.stdout
    if job_spec.json_events:
        from elasticdl.api.event_lines import EventLines

        lines = EventLines(job_spec.job_dir, sys.stdout)
        try:
            yield lines.show
        finally:
            lines.read()
    elif job_spec.quiet:
        yield lambda status: None
    elif stream.isatty():
        from elasticdl.api.live_view import LastEvents, live_view

        with live_view(stream, LastEvents(job_spec.job_dir).look) as show:
            yield show
    else:
        yield PlainProgress(stream).show


class PlainProgress:
    """One line every few seconds, and one for each new message and evaluation."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._news = News()
        self._next_line = -float("inf")

    def show(self, status: JobStatus) -> None:
        """Print what this status adds to the last ones."""
        lines = self._news.lines(status)
        now = self._clock()
        if status.records_expected and now >= self._next_line:
            lines.append(status_line(status))
            self._next_line = now + PLAIN_LINE_EVERY_S
        for line in lines:
            print(line, file=self._stream, flush=True)


class News:
    """Tells which messages (`masked`) and evaluations of a status were not in the one before."""

    def __init__(self) -> None:
        self._message = ""
        self._evaluation: dict[str, float] = {}

    def lines(self, status: JobStatus) -> list[str]:
        """What is new, a line each."""
        lines = []
        if status.message and status.message != self._message:
            lines.append(masked(status.message))
        self._message = status.message
        evaluation = dict(status.evaluation or {})
        if evaluation and evaluation != self._evaluation:
            lines.append(f"evaluation: {metrics_line(evaluation)}")
            self._evaluation = evaluation
        return lines


def status_line(status: JobStatus) -> str:
    """Say where a job stands, in one line."""
    share = 100 * status.records_done // max(1, status.records_expected)
    head = f"{headline(status)}: {records(status)} records ({share} %)"
    return ", ".join([head, *details(status), *time_left(status)])


def headline(status: JobStatus) -> str:
    """What it does, and in which epoch."""
    if status.epoch and status.num_epochs > 1:
        return f"{status.state}, epoch {status.epoch} of {status.num_epochs}"
    return status.state


def records(status: JobStatus) -> str:
    """How far it is."""
    return f"{status.records_done:,} of {status.records_expected:,}"


def details(status: JobStatus) -> list[str]:
    """Its speed, its loss, and how many instances it has."""
    parts = []
    if status.records_per_s > 0:
        parts.append(f"{status.records_per_s:,.0f} records/s")
    if status.records_to_repeat:
        parts.append(f"{status.records_to_repeat:,} to train again")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4f}")
    if status.workers < status.num_workers:
        parts.append(f"{status.workers} of {status.num_workers} workers")
    elif status.workers:
        parts.append(f"{status.workers} worker{'' if status.workers == 1 else 's'}")
    if status.ps:
        parts.append(f"{status.ps} PS")
    return parts


def time_left(status: JobStatus) -> list[str]:
    """For how long it goes on at this speed; nothing while that is not known."""
    left = status.records_expected - status.records_done + status.records_to_repeat
    if left <= 0 or status.records_per_s <= 0:
        return []
    seconds = round(left / status.records_per_s)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return [f"{hours} h {minutes:02} min left"]
    return [f"{minutes} min {seconds % 60:02} s left" if minutes else f"{seconds} s left"]
