"""Show a running job: a live bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from elasticdl.api.result import JobStatus, metrics_line
from elasticdl.job_spec import JobSpec

if TYPE_CHECKING:
    from rich.console import RenderableType

OnStatus = Callable[[JobStatus], None]

PLAIN_LINE_EVERY_S = 5.0


@contextmanager
def open_progress(job_spec: JobSpec) -> Iterator[OnStatus]:
    """Give what shows each `JobStatus`, for as long as the job runs.

    Progress goes to stdout, or to stderr where the result's JSON goes to stdout. Statuses may come
    from any one thread at a time.
    """
    stream = sys.stderr if job_spec.print_json else sys.stdout
    if job_spec.quiet:
        yield lambda status: None
    elif stream.isatty():
        with _live_progress(stream) as show:
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
    """Tells which messages and evaluations of a status were not in the one before."""

    def __init__(self) -> None:
        self._message = ""
        self._evaluation: dict[str, float] = {}

    def lines(self, status: JobStatus) -> list[str]:
        """What is new, a line each."""
        lines = []
        if status.message and status.message != self._message:
            lines.append(status.message)
        self._message = status.message
        evaluation = dict(status.evaluation or {})
        if evaluation and evaluation != self._evaluation:
            lines.append(f"evaluation: {metrics_line(evaluation)}")
            self._evaluation = evaluation
        return lines


def status_line(status: JobStatus) -> str:
    """Say where a job stands, in one line."""
    share = 100 * status.records_done // max(1, status.records_expected)
    head = f"{_headline(status)}: {_records(status)} records ({share} %)"
    return ", ".join([head, *_details(status), *_time_left(status)])


def _headline(status: JobStatus) -> str:
    if status.epoch and status.num_epochs > 1:
        return f"{status.state}, epoch {status.epoch} of {status.num_epochs}"
    return status.state


def _records(status: JobStatus) -> str:
    return f"{status.records_done:,} of {status.records_expected:,}"


def _details(status: JobStatus) -> list[str]:
    parts = []
    if status.records_per_s > 0:
        parts.append(f"{status.records_per_s:,.0f} records/s")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4f}")
    if status.workers < status.num_workers:
        parts.append(f"{status.workers} of {status.num_workers} workers")
    elif status.workers:
        parts.append(f"{status.workers} worker{'' if status.workers == 1 else 's'}")
    if status.ps:
        parts.append(f"{status.ps} PS")
    return parts


def _time_left(status: JobStatus) -> list[str]:
    left = status.records_expected - status.records_done
    if left <= 0 or status.records_per_s <= 0:
        return []
    seconds = round(left / status.records_per_s)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return [f"{hours} h {minutes:02} min left"]
    return [f"{minutes} min {seconds % 60:02} s left" if minutes else f"{seconds} s left"]


@contextmanager
def _live_progress(stream: TextIO) -> Iterator[OnStatus]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False)
    news = News()
    with Live(console=console, transient=True, refresh_per_second=8) as live:

        def show(status: JobStatus) -> None:
            for line in news.lines(status):
                console.print(line, markup=False)
            live.update(_bar(status))

        yield show


def _bar(status: JobStatus) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    if not status.records_expected:
        return Spinner("dots", Text(_headline(status)))
    bar = ProgressBar(total=status.records_expected, completed=status.records_done)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(Text(_headline(status)), bar, Text(_records(status)))
    details = ", ".join([*_details(status), *_time_left(status)])
    return Group(grid, Text(details, style="dim"))
