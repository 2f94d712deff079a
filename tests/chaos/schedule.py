"""What happens to a job's processes, and when: drawn from a seed, to be played again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Of the disturbances: those that stop a process for a while instead of killing it, those that want
# another number of a role's processes, and those that come together with the one before.
STOPPED_SHARE = 0.2
SCALED_SHARE = 0.2
TOGETHER_SHARE = 0.2
# One in five is longer than the lease: it is replaced, although it lives.
MEAN_STOP_S = 6.0
SCALABLE = ("ps", "worker")
MOST_SCALED = 3


@dataclass(frozen=True)
class Disturbance:
    """One process is killed, or stopped for a while, or its role gets another number of them.

    Attributes:
      pause_s: after the disturbance before.
      role: whose process.
      which: in [0, 1), which of the role's processes.
      stopped_s: how long it is stopped; 0: it is killed.
      scaled_to: so many processes the role is to have; 0: as many as now.
    """

    pause_s: float
    role: str
    which: float
    stopped_s: float = 0.0
    scaled_to: int = 0

    def __str__(self) -> str:
        if self.scaled_to:
            return f"+{self.pause_s:.1f} s: scale {self.role} to {self.scaled_to}"
        what = f"stop for {self.stopped_s:.1f} s" if self.stopped_s else "kill"
        return f"+{self.pause_s:.1f} s: {what} {self.role}"


def draw(
    chance: random.Random, roles: Sequence[str], mean_pause_s: float, count: int
) -> list[Disturbance]:
    """Return `count` disturbances at Poisson times; each role has as good as the same share.

    The first of each role kills.
    """
    deck: list[str] = []
    schedule: list[Disturbance] = []
    for _ in range(count):
        if not deck:
            deck = list(roles)
            chance.shuffle(deck)
        role = deck.pop()
        pause_s = chance.expovariate(1 / mean_pause_s)
        if chance.random() < TOGETHER_SHARE:
            pause_s = 0.0
        which, how = chance.random(), chance.random()
        stopped_s, scaled_to = 0.0, 0
        if len(schedule) >= len(roles):
            if how < STOPPED_SHARE:
                stopped_s = chance.expovariate(1 / MEAN_STOP_S)
            elif role in SCALABLE and how > 1 - SCALED_SHARE:
                scaled_to = chance.randint(1, MOST_SCALED)
        schedule.append(Disturbance(pause_s, role, which, stopped_s, scaled_to))
    return schedule
