"""Who works on what: the leases under way, found by grant, by worker and by task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from elasticdl.master.tasks import Task


@dataclass
class Lease:
    """A task that one worker works on since `since`, until `expires` unless it says it lives."""

    grant: int
    task: Task
    worker: int
    incarnation: int
    expires: float
    since: float = 0.0


class Leases:
    """The leases under way. Each lookup costs as much as it finds."""

    def __init__(self) -> None:
        self._by_grant: dict[int, Lease] = {}
        self._by_worker: dict[int, dict[int, Lease]] = {}
        self._by_task: dict[int, dict[int, Lease]] = {}
        self._in_lanes: dict[int, Lease] = {}
        # No lease ends before this: they are only ever extended.
        self._none_late_before = math.inf

    def __iter__(self) -> Iterator[Lease]:
        """All, in the order granted."""
        return iter(self._by_grant.values())

    def add(self, lease: Lease) -> None:
        """Note a new lease."""
        self._by_grant[lease.grant] = lease
        self._none_late_before = min(self._none_late_before, lease.expires)
        self._by_worker.setdefault(lease.worker, {})[lease.grant] = lease
        self._by_task.setdefault(lease.task.id, {})[lease.grant] = lease
        if lease.task.lane is not None:
            self._in_lanes[lease.grant] = lease

    def end(self, lease: Lease) -> None:
        """Forget a lease."""
        del self._by_grant[lease.grant]
        self._in_lanes.pop(lease.grant, None)
        for index, key in ((self._by_worker, lease.worker), (self._by_task, lease.task.id)):
            del index[key][lease.grant]
            if not index[key]:
                del index[key]

    def get(self, grant: int) -> Lease | None:
        """The lease of a grant, if it is under way."""
        return self._by_grant.get(grant)

    def of_worker(self, worker: int) -> list[Lease]:
        """What a worker holds, in the order granted."""
        return list(self._by_worker.get(worker, {}).values())

    def of_task(self, task: int) -> list[Lease]:
        """Who works on a task."""
        return list(self._by_task.get(task, {}).values())

    def in_lanes(self) -> Iterable[Lease]:
        """Those of lanes' tasks."""
        return self._in_lanes.values()

    def late(self, now: float) -> list[Lease]:
        """Those that nobody extended in time."""
        if now < self._none_late_before:
            return []
        late = [lease for lease in self._by_grant.values() if lease.expires <= now]
        ends = (lease.expires for lease in self._by_grant.values() if lease.expires > now)
        self._none_late_before = now if late else min(ends, default=math.inf)
        return late

    @property
    def num_workers(self) -> int:
        """Workers that hold any."""
        return len(self._by_worker)

    @property
    def num_tasks(self) -> int:
        """Tasks that anybody works on."""
        return len(self._by_task)
