"""Sums of squares that partitions tell each other, by way of the workers, to close a step. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Known(Enum):
    """What a partition can say about a step's sums: they follow, not yet, or no more."""

    SUMS = 0
    NOT_YET = 1
    GONE = 2


@dataclass(frozen=True)
class _Offer:
    step: int
    sums: np.ndarray


class NormExchange:
    """The sums of one partition: of the step that waits for the totals, and of the one before.

    The last closed step's are kept for who asks late: no partition can have closed the step after
    it as long as one lacks the totals of this one. Not thread-safe.
    """

    def __init__(self) -> None:
        self._waiting: _Offer | None = None
        self._last: _Offer | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for its totals."""
        return self._waiting is not None

    def offer(self, step: int, sums: np.ndarray) -> None:
        """Step `step` has all it needs but the totals; its own sums are these, float64."""
        self._waiting = _Offer(step, sums)

    def ask(self, step: int) -> tuple[Known, np.ndarray | None]:
        """Return this partition's sums of a step, if it has them."""
        for offer in (self._waiting, self._last):
            if offer is not None and offer.step == step:
                return Known.SUMS, offer.sums
        newest = self._waiting or self._last
        is_past = newest is not None and step < newest.step
        return (Known.GONE if is_past else Known.NOT_YET), None

    def accepts(self, step: int, totals: np.ndarray) -> bool:
        """Whether these are the totals that the waiting step needs; others change nothing.

        Raises:
          ValueError: they are not as many as its sums.
        """
        if self._waiting is None or self._waiting.step != step:
            return False
        if totals.shape != self._waiting.sums.shape:
            raise ValueError(f"{totals.shape} totals; there are {self._waiting.sums.shape} sums")
        return True

    def close(self) -> None:
        """The step that waited has closed."""
        self._waiting, self._last = None, self._waiting
