"""What happens to a job's processes, and when: drawn from a seed, to be played again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Of the disturbances: those that stop a process for a while instead of killing it, and those that
# come together with the one before.
STOPPED_SHARE = 0.3
TOGETHER_SHARE = 0.2
MEAN_STOP_S = 3.0


@dataclass(frozen=True)
class Disturbance:
    """One process is killed, or stopped for a while.

    Attributes:
      pause_s: after the disturbance before.
      role: whose process.
      which: in [0, 1), which of the role's processes.
      stopped_s: how long it is stopped; 0: it is killed.
    """

    pause_s: float
    role: str
    which: float
    stopped_s: float

    def __str__(self) -> str:
        what = f"stop for {self.stopped_s:.1f} s" if self.stopped_s else "kill"
        return f"+{self.pause_s:.1f} s: {what} {self.role}"


def draw(
    chance: random.Random, roles: Sequence[str], mean_pause_s: float, count: int
) -> list[Disturbance]:
    """Return `count` disturbances at Poisson times; each role has as good as the same share.

    The first of each role kills.
    """
    deck: list[str] = []
    schedule = []
    for _ in range(count):
        if not deck:
            deck = list(roles)
            chance.shuffle(deck)
        is_together = chance.random() < TOGETHER_SHARE
        is_stopped = chance.random() < STOPPED_SHARE and len(schedule) >= len(roles)
        schedule.append(
            Disturbance(
                0.0 if is_together else chance.expovariate(1 / mean_pause_s),
                deck.pop(),
                chance.random(),
                chance.expovariate(1 / MEAN_STOP_S) if is_stopped else 0.0,
            )
        )
    return schedule
