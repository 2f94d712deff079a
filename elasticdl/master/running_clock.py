"""The clock of a job's running time: it stands still while nothing of the job runs."""

from __future__ import annotations

import time

# A longer pause between two ticks means that this process was stopped: time stood still then.
LONGEST_TICK_S = 3.0


class RunningClock:
    """Seconds of a job's running time, over all its masters.

    Args:
      start_s: what it reads now: where the clock of the master before stood.
    """

    def __init__(self, start_s: float) -> None:
        self._ticked = time.monotonic()
        self._time_lost = self._ticked - start_s
        self._stands_at: float | None = None

    def now(self) -> float:
        """What the clock reads."""
        if self._stands_at is not None:
            return self._stands_at
        return time.monotonic() - self._time_lost

    def tick(self) -> float:
        """Note that this process runs, every so often; return what the clock reads."""
        paused_s = time.monotonic() - self._ticked
        self._ticked += paused_s
        if self._stands_at is not None:
            self._time_lost, self._stands_at = self._ticked - self._stands_at, None
        elif paused_s > LONGEST_TICK_S:
            self._time_lost += paused_s
        return self.now()

    @property
    def stands_still(self) -> bool:
        """Whether it does until the next tick."""
        return self._stands_at is not None

    def stand_still(self) -> None:
        """Read the same until the next tick."""
        self._stands_at = self.now()
