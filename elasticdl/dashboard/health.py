"""Whether a job is well, in words: what a person has to know, the worst first."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from elasticdl.dashboard.events import JobEvent
from elasticdl.dashboard.source import Values
from elasticdl.master.cluster_state import COMMITTED, FAILED
from elasticdl.master.placement import DAMAGED
from elasticdl.master.story import leased_twice
from elasticdl.master.wording import count_of

logger = logging.getLogger(__name__)

Level = Literal["error", "warning"]
Finding = tuple[Level, str]

RECENT_S = 600.0
LATE_S = 60.0
"""For how long it is told that a task was leased twice: that has mended what was late."""
MANY_DEATHS = 3
SILENT_S = 5.0
STILL_S = 60.0
STUCK_S = 300.0
MUCH_IMBALANCE = 1.5
LITTLE_DISK = 1 << 30
NO_DISK = 100 << 20
_NAMES = {"ps": "parameter server", "worker": "worker", "master": "the master"}


def find_health(
    state: Values,
    events: Sequence[JobEvent],
    stands_still_s: float,
    directories: Sequence[str],
    min_workers: int = 0,
) -> list[Values]:
    """Return `health` of a state.

    Args:
      state: all else of it.
      events: the latest ones.
      stands_still_s: for how long no task was done.
      directories: where the job writes.
      min_workers: how few are too few; 0: fewer than are wanted.
    """
    found = [
        *_looked("how it ended", lambda: _of_end(state)),
        *_looked("who died", lambda: _of_deaths(state["at"], events)),
        *_looked("its checkpoints", lambda: _of_checkpoints(events)),
        *_looked("what went wrong", lambda: _of_events(state, events)),
    ]
    if state["state"] == "running":
        found += [
            *_looked("its progress", lambda: _of_progress(state, stands_still_s)),
            *_looked("its instances", lambda: _of_instances(state, min_workers)),
            *_looked("its disks", lambda: _of_disks(directories)),
        ]
    found.sort(key=lambda one: one[0] != "error")
    return [{"level": level, "text": text} for level, text in found]


def _looked(at: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What was found; of what cannot be looked at, that: the rest of the health is told."""
    try:
        return list(look())
    except Exception as error:
        logger.debug("health: %s", at, exc_info=True)
        return [("warning", f"{at} cannot be looked at ({type(error).__name__}: {error})")]


def _of_end(state: Values) -> Iterator[Finding]:
    if state["state"] in ("failed", "lost") and state["error"]:
        yield "error", _first_line(state["error"])
    elif state["state"] == "lost":
        yield "error", "nothing of the job runs, and it did not end; elasticdl jobs resume goes on"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0] or "no reason is given"


def _recent(at: float, events: Sequence[JobEvent]) -> list[JobEvent]:
    return [one for one in events if one.time > at - RECENT_S]


def _of_deaths(at: float, events: Sequence[JobEvent]) -> Iterator[Finding]:
    deaths: dict[tuple[str, int], list[JobEvent]] = defaultdict(list)
    for one in _recent(at, events):
        if one.mark == "death":
            deaths[one.body["role"], one.body["index"]].append(one)
    for (role, index), some in sorted(deaths.items()):
        if len(some) >= MANY_DEATHS:
            who = _NAMES[role] if role == "master" else f"{_NAMES[role]} {index}"
            yield (
                "error",
                f"{who} died {len(some)} times in {RECENT_S / 60:.0f} minutes, last: "
                f"{some[-1].body['reason']}; its log says more",
            )


def _of_checkpoints(events: Sequence[JobEvent]) -> Iterator[Finding]:
    checkpoints = [one for one in events if one.kind in (COMMITTED, FAILED)]
    failed = 0
    for one in reversed(checkpoints):
        if one.kind == COMMITTED:
            break
        failed += 1
    if failed:
        why = _first_line(checkpoints[-1].body["reason"])
        yield "error", f"{count_of(failed, 'checkpoint')} in a row failed, last: {why}"


def _of_events(state: Values, events: Sequence[JobEvent]) -> Iterator[Finding]:
    at = state["at"]
    recent = _recent(at, events)
    for one in recent:
        if one.kind == DAMAGED:
            yield "warning", one.text
    raised = [one for one in recent if one.kind == "raised"]
    if raised:
        yield "warning", _first_line(raised[-1].text)
    late = [one for one in recent if one.kind == "granted" and "straggler" in one.body]
    if late and state["state"] == "running" and late[-1].time > at - LATE_S:
        yield "warning", leased_twice(late[-1].body)


def _of_progress(state: Values, stands_still_s: float) -> Iterator[Finding]:
    if stands_still_s >= STILL_S:
        level: Level = "error" if stands_still_s >= STUCK_S else "warning"
        yield level, f"no task was done for {stands_still_s:.0f} s"
    again = state["tasks"]["to_repeat"]
    if again:
        are = "is" if again == 1 else "are"
        yield "warning", f"{count_of(again, 'task')} {are} trained again after a loss"
    imbalance = state["imbalance"]
    if imbalance is not None and imbalance > MUCH_IMBALANCE:
        yield (
            "warning",
            f"the busiest parameter server moves {imbalance:.1f} times the bytes of the mean",
        )


def _of_instances(state: Values, min_workers: int) -> Iterator[Finding]:
    for role, wanted in (("worker", state["workers_wanted"]), ("ps", state["ps_wanted"])):
        fewest = min(min_workers, wanted) if min_workers and role == "worker" else wanted
        running = sum(
            one["role"] == role and one["state"] == "running" for one in state["instances"]
        )
        if running < fewest:
            least = f"; {fewest} is the least" if fewest < wanted else ""
            yield "warning", f"{running} of {count_of(wanted, _NAMES[role])} running{least}"
    for one in state["instances"]:
        heard_s = one["heard_s"]
        if one["state"] == "running" and heard_s is not None and heard_s > SILENT_S:
            who = f"{_NAMES[one['role']]} {one['index']}"
            yield "warning", f"{who} was not heard from for {heard_s:.0f} s"


def _of_disks(directories: Sequence[str]) -> Iterator[Finding]:
    for directory in _local(directories):
        try:
            free = _free_at(directory)
        except OSError as error:
            yield "warning", f"{directory}: how much is free cannot be told: {error.strerror}"
            continue
        if free < LITTLE_DISK:
            level: Level = "error" if free < NO_DISK else "warning"
            yield level, f"{directory}: {free / 1e6:,.0f} MB are free"


def free_bytes(directories: Sequence[str]) -> dict[str, int]:
    """Return what is free where the directories are, or will be; of those that can be asked."""
    found = {}
    for directory in _local(directories):
        with contextlib.suppress(OSError):
            found[directory] = _free_at(directory)
    return found


def _local(directories: Sequence[str]) -> list[str]:
    """Those on disks of this machine, each once."""
    return [one for one in dict.fromkeys(directories) if "://" not in one]


def _free_at(directory: str) -> int:
    for path in (Path(directory), *Path(directory).parents):
        try:
            return shutil.disk_usage(path).free
        except (FileNotFoundError, NotADirectoryError):  # It will be.
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
