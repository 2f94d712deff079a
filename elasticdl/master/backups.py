"""Stragglers: which task, held much longer than its peers were, is leased to a second worker too.

Pure, a part of the ledger. Two workers may do one task: groups apply each minibatch once.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from elasticdl.master.leases import Lease

DURATIONS_KEPT = 64
FEWEST_DURATIONS = 4
MUCH_LONGER = 2.0
SHORTEST_S = 1.0


@dataclass(frozen=True)
class Overdue:
    """A lease held for `held_s`, where its peers take `usual_s`."""

    lease: Lease
    held_s: float
    usual_s: float


class Backups:
    """How long tasks take, and which is overdue by that measure."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=DURATIONS_KEPT)

    def done(self, seconds: float) -> None:
        """A task was done so long after it was leased."""
        self._durations.append(seconds)

    def overdue(
        self, leases: Iterable[Lease], may_be: Callable[[Lease], bool], now: float
    ) -> Overdue | None:
        """Return the first lease that is held much longer than usual and may be had twice.

        Args:
          leases: in the order granted; it costs no more than there are overdue ones.
          may_be: whether a lease's task may be leased to who asks.
          now: the clock's reading, in seconds.
        """
        if len(self._durations) < FEWEST_DURATIONS:
            return None
        usual_s = statistics.median(self._durations)
        for lease in leases:
            held_s = now - lease.since
            if held_s <= MUCH_LONGER * max(SHORTEST_S, usual_s):
                return None
            if may_be(lease):
                return Overdue(lease, held_s, usual_s)
        return None
