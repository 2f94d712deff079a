"""Which learning rate an update has: decided by callbacks, of the schedule, or the optimizer's."""

from __future__ import annotations

import math

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.rate_table import RateTable
from elasticdl.ps.refusal import Refused


class LearningRates:
    """The learning rates of one partition's updates. Not thread-safe: callers lock.

    Args:
      optimizer: says the rate, or that there is a schedule.
    """

    def __init__(self, optimizer: OptimizerConfig) -> None:
        self._optimizer = optimizer
        self.table = RateTable()

    def of_update(
        self, decided: float | None, iterations: np.ndarray, groups: np.ndarray, staleness: int = 1
    ) -> list[tuple[float, np.ndarray]]:
        """Return each learning rate of the next update and the groups that have it: mostly one.

        Args:
          decided: by callbacks for the task; it comes first where there is one.
          iterations: updates of each group so far, int64 ``[groups]``: the step of the schedule.
          groups: those that are to be updated, bool ``[groups]``.
          staleness: the rates are divided by it where it is above 1.

        Raises:
          Refused: a block of the schedule is missing.
          ValueError: `decided` is no finite number from 0 on.
        """
        if decided is not None and not 0 <= decided < math.inf:
            raise ValueError(f"the learning rate is {decided}")
        if decided is not None or not self._optimizer.schedule:
            rate = self._optimizer.learning_rate if decided is None else decided
            return [(rate / max(1, staleness), groups)]
        steps = iterations[groups]
        missing = self.table.missing(steps)
        if missing is not None:
            raise Refused(ps_pb2.PS_RATES_WANTED, wanted_block=missing)
        rates = np.zeros(len(groups), np.float32)
        rates[groups] = self.table.rates(steps)
        return [
            (float(rate) / max(1, staleness), groups & (rates == rate))
            for rate in np.unique(rates[groups])
        ]


def decided_rate(header: ps_pb2.PushHeader) -> float | None:
    """Return the learning rate that callbacks decided for a push's task, if they did."""
    return header.learning_rate if header.HasField("learning_rate") else None
