"""The learning rates of a schedule, as workers tabulate them: blocks of steps."""

from __future__ import annotations

import numpy as np

from elasticdl.ps.arrays import require

BLOCK_STEPS = 1000
"""Steps of a block: block b holds the rates of steps 1000 b to 1000 b + 999."""

MAX_BLOCKS = 64


class RateTable:
    """The blocks a partition has been sent. Not thread-safe: callers lock.

    The update that makes a group's iterations n has the rate of step n - 1, as in Keras. Groups
    mostly stand at one step; one that was restored may be far behind, so some blocks are kept.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, np.ndarray] = {}

    def missing(self, steps: np.ndarray) -> int | None:
        """Return the lowest block that the rates of some steps, int64 ``[n]``, need; or None."""
        for block in np.unique(steps // BLOCK_STEPS).tolist():
            if block not in self._blocks:
                return int(block)
        return None

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """Return the rate of each step, float32 ``[n]``; KeyError where a block is missing."""
        if len(steps) and (steps == steps[0]).all():
            rate = self._blocks[int(steps[0]) // BLOCK_STEPS][int(steps[0]) % BLOCK_STEPS]
            return np.full(len(steps), rate, np.float32)
        return np.array(
            [self._blocks[step // BLOCK_STEPS][step % BLOCK_STEPS] for step in steps.tolist()],
            np.float32,
        )

    def set(self, block: int, rates: np.ndarray) -> None:
        """Take a block, float32 ``[1000]``; one that is there stays as it is.

        Raises:
          ValueError: not a block, or a rate is not finite.
        """
        rates = require("rates", rates, np.float32, (BLOCK_STEPS,))
        if block < 0 or not np.isfinite(rates).all():
            raise ValueError(f"block {block} of a schedule: its rates must be finite numbers")
        if block not in self._blocks:
            while len(self._blocks) >= MAX_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = rates.copy()
