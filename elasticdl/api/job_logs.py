"""What all instances of a job said, in the order of time; also as they go on."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from elasticdl.api.job_backends import PLACE, Log, LogFollower, PlacedJob
from elasticdl.errors import UsageError
from elasticdl.logs.line import LogLine

LOOK_S = 0.2
MOST_NAMED = 12


def log_lines(
    job: str, role: str | None = None, index: int | None = None, last: int | None = None
) -> Iterator[LogLine]:
    """Yield what a job's instances said so far, all together by time.

    Args:
      role, index: of the instances; None: any.
      last: only so many, the last ones.

    Raises:
      UsageError: there is no such job, or no such instance.
    """
    logs = _logs(PLACE.find(job), role, index)
    lines = heapq.merge(*(log.lines() for log in logs), key=_time)
    return lines if last is None else iter(deque(lines, maxlen=last))


def follow_logs(
    job: str, role: str | None = None, index: int | None = None, last: int | None = None
) -> Iterator[LogLine]:
    """Yield what `log_lines` does, then what is said from then on, until the job has ended.

    Raises:
      UsageError: there is no such job, or no such instance of one that has ended.
    """
    return _follow(PLACE.find(job), role, index, last)


def first_errors(job: str, role: str | None = None, index: int | None = None) -> list[LogLine]:
    """Return the first error of each instance that told of one, the first of all first.

    Raises:
      UsageError: there is no such job, or no such instance.
    """
    errors = (log.first_error() for log in _logs(PLACE.find(job), role, index))
    return sorted((one for one in errors if one is not None), key=_time)


def _follow(
    job: PlacedJob, role: str | None, index: int | None, last: int | None
) -> Iterator[LogLine]:
    followers: dict[tuple[str, int, int], LogFollower] = {}
    try:
        while True:
            was_running = job.is_running()
            for log in job.logs(role, index):
                who = (log.role, log.index, log.incarnation)
                if who not in followers:
                    followers[who] = log.follower()
            yield from _by_time(one.read() for one in followers.values())[-last if last else 0 :]
            last = None
            if not was_running:
                _logs(job, role, index)
                yield from _by_time(one.rest() for one in followers.values())
                return
            time.sleep(LOOK_S)
    finally:
        for one in followers.values():
            one.close()


def _logs(job: PlacedJob, role: str | None, index: int | None) -> Sequence[Log]:
    """The logs of some instances.

    Raises:
      UsageError: there are none, though the job has others.
    """
    logs = job.logs(role, index)
    if not logs and (others := job.logs()):
        who = sorted({f"{log.role} {log.index}" for log in others})
        asked = "any" if role is None else role
        raise UsageError(
            f"job '{job.known_as}': no log of {asked}{'' if index is None else f' {index}'}; "
            f"there are {', '.join(who[:MOST_NAMED])}{', …' if len(who) > MOST_NAMED else ''}"
        )
    return logs


def _by_time(lines: Iterable[Iterable[LogLine]]) -> list[LogLine]:
    return sorted((one for some in lines for one in some), key=_time)


def _time(line: LogLine) -> str:
    return line.time
