"""A running job on a terminal: one view that is drawn again and again, below what was said.

What happened last to its instances stays in the view, with its latest checkpoint and evaluation.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from elasticdl.api.progress import News, details, headline, records, time_left
from elasticdl.api.result import JobStatus
from elasticdl.dashboard.events import JobEvent, JobEvents
from elasticdl.errors import JobError
from elasticdl.master.journal import FILE_NAME

NAMES = {"worker": "workers", "ps": "parameter servers"}
MOST_NAMED = 6
MOST_LOSSES = 30
MOST_EVENTS = 5
EVENTS_EVERY_S = 1.0
OTHER_LINES = 10
"""Of a terminal, which the rest of the view and a few lines above it have."""
ROUTINE = ("checkpoint", "evaluation")
"""Marks of what happens often when all is well."""
_STEPS = "▁▂▃▄▅▆▇█"
_COLORS = {"death": "red", "join": "green", "rescale": "yellow", "master": "yellow"}


class LastEvents:
    """What happened last to a job, of what its page marks on the axis of time; by its journal.

    Args:
      job_dir: of a job that is there or not yet.
    """

    def __init__(self, job_dir: str | Path) -> None:
        self._path = Path(job_dir) / FILE_NAME
        self._journal = JobEvents(job_dir)
        self._latest: list[JobEvent] = []
        self._looks_at = 0.0

    def look(self) -> list[JobEvent]:
        """The latest, in order; the journal is read once a second at most."""
        if time.monotonic() >= self._looks_at and self._path.exists():
            with suppress(JobError):  # It is being made.
                for one in self._journal.read(with_tasks=False):
                    self._latest = kept(self._latest, one)
            self._looks_at = time.monotonic() + EVENTS_EVERY_S
        return list(self._latest)


def kept(latest: Sequence[JobEvent], event: JobEvent) -> list[JobEvent]:
    """Return what stays in the view when something has happened.

    A death stays to be seen while a job checkpoints and evaluates every few seconds: of these
    only the latest of each is kept.
    """
    if event.mark is None:
        return list(latest)
    others = [one for one in latest if one.mark != event.mark or one.mark not in ROUTINE]
    return [*others, event][-MOST_EVENTS:]


@contextmanager
def live_view(
    stream: TextIO, last_events: Callable[[], Sequence[JobEvent]]
) -> Iterator[Callable[[JobStatus], None]]:
    """Give what shows each status, until the view is taken away; what was said stays to be read."""
    console = Console(file=stream, highlight=False)
    news = News()
    losses: deque[float] = deque(maxlen=MOST_LOSSES)
    with Live(console=console, transient=True, refresh_per_second=8) as live:

        def show(status: JobStatus) -> None:
            for line in news.lines(status):
                at = time.strftime("%H:%M:%S")
                console.print(Text.assemble((at, "dim"), " ", line), soft_wrap=True)
            if status.loss is not None and (not losses or status.loss != losses[-1]):
                losses.append(status.loss)
            room = max(0, min(MOST_EVENTS, console.height - OTHER_LINES))
            live.update(view(status, losses, last_events()[-room:] if room else ()))

        yield show


def view(
    status: JobStatus, losses: Sequence[float], events: Sequence[JobEvent] = ()
) -> RenderableType:
    """What is drawn: how far it is, how fast, the loss lately, its instances, what happened."""
    if not status.records_expected:
        return Spinner("dots", Text(headline(status)))
    bar = ProgressBar(total=status.records_expected, completed=status.records_done)
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, justify="right")
    share = 100 * status.records_done // status.records_expected
    head.add_row(Text(headline(status)), bar, Text(f"{records(status)} ({share} %)"))
    rows: list[RenderableType] = [head]
    said = Text(", ".join([*details(status), *time_left(status)]), style="dim")
    if len(losses) > 1:
        said.append(f"  loss {trend(losses)}")
    rows.append(said)
    facts = Table.grid(padding=(0, 2))
    for role, name in NAMES.items():
        if told := instances(status, role):
            facts.add_row(Text(name, style="dim"), told)
    if status.dashboard:
        facts.add_row(Text("dashboard", style="dim"), Text(status.dashboard))
    if facts.row_count:
        rows.append(facts)
    rows += happened(events)
    return Group(*rows)


def happened(events: Sequence[JobEvent]) -> list[Text]:
    """Say events, a line each; what has no room in it is cut."""
    lines = []
    for one in events:
        at = datetime.fromtimestamp(one.time).strftime("%H:%M:%S")
        mark = one.mark or ""
        line = Text(no_wrap=True, overflow="ellipsis").append(at, "dim").append(" ")
        text = one.text.partition("\n")[0].removeprefix(f"{mark} ")
        line.append(f"{mark:<10}", _COLORS.get(mark, "")).append(" " + text)
        lines.append(line)
    return lines


def instances(status: JobStatus, role: str) -> Text | None:
    """Say how many of a role are in which state, and which do not run; None if there are none."""
    of_role = [one for one in status.instances if one[0] == role]
    if not of_role:
        return None
    told = Text()
    running = Counter(state for *_, state in of_role)["running"]
    told.append(f"{running} running", style="green" if running == len(of_role) else "yellow")
    others = [one for one in of_role if one[3] != "running"]
    for _, index, incarnation, state in others[:MOST_NAMED]:
        life = f" (life {incarnation})" if incarnation > 1 else ""
        told.append(f", {index}{life} {state}", style="yellow")
    if len(others) > MOST_NAMED:
        told.append(f", {len(others) - MOST_NAMED} more", style="yellow")
    return told


def trend(values: Sequence[float]) -> str:
    """Draw values in a line of text, e.g. ``█▆▃▂▁``; what is not finite is a gap."""
    known = [one for one in values if one - one == 0]
    if not known:
        return ""
    least, most = min(known), max(known)
    scale = (len(_STEPS) - 1) / (most - least) if most > least else 0.0
    return "".join(
        _STEPS[round((one - least) * scale)] if one - one == 0 else " " for one in values
    )
