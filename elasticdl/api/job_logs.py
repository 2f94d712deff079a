"""What all instances of a job said, in the order of time; also as they go on."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator

from elasticdl.api.job_backends import PLACE, LogFollower, PlacedJob
from elasticdl.logs.line import LogLine

LOOK_S = 0.2


def log_lines(
    job: str, role: str | None = None, index: int | None = None, last: int | None = None
) -> Iterator[LogLine]:
    """Yield what a job's instances said so far, all together by time.

    Args:
      role, index: of the instances; None: any.
      last: only so many, the last ones.

    Raises:
      UsageError: there is no such job.
    """
    logs = PLACE.find(job).logs(role, index)
    lines = heapq.merge(*(log.lines() for log in logs), key=_time)
    return lines if last is None else iter(deque(lines, maxlen=last))


def follow_logs(
    job: str, role: str | None = None, index: int | None = None, last: int | None = None
) -> Iterator[LogLine]:
    """Yield what `log_lines` does, then what is said from then on, until the job has ended.

    Raises:
      UsageError: there is no such job.
    """
    return _follow(PLACE.find(job), role, index, last)


def first_errors(job: str, role: str | None = None, index: int | None = None) -> list[LogLine]:
    """Return the first error of each instance that told of one, the first of all first.

    Raises:
      UsageError: there is no such job.
    """
    errors = (log.first_error() for log in PLACE.find(job).logs(role, index))
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
                yield from _by_time(one.rest() for one in followers.values())
                return
            time.sleep(LOOK_S)
    finally:
        for one in followers.values():
            one.close()


def _by_time(lines: Iterable[Iterable[LogLine]]) -> list[LogLine]:
    return sorted((one for some in lines for one in some), key=_time)


def _time(line: LogLine) -> str:
    return line.time
