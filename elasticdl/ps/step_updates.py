"""What a closed step of sync mode does to a partition's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps.averaging import Gradients
from elasticdl.ps.clipping import clip, sums_of_squares

if TYPE_CHECKING:
    from elasticdl.ps.partition import Partition


class StepUpdates:
    """Applies the steps of sync mode to a partition, whose lock is held: all groups alike."""

    def __init__(self, partition: Partition, model: ps_pb2.ModelDefinition) -> None:
        self._partition = partition
        self._trainable = [one.name for one in model.variables if one.trainable]
        self._num_tables = len(model.tables)
        self._rows: list[np.ndarray | None] = []

    def prepare(self, gradients: Gradients, totals: np.ndarray | None) -> Gradients:
        """Clip, and make room for all rows; `apply` of what it returns follows at once."""
        partition = self._partition
        clipped = clip(
            partition._optimizer, partition._dense.layout, self._trainable, gradients, totals
        )
        self._rows = partition._reserve(clipped)
        return clipped

    def sums_of_squares(self, gradients: Gradients | None) -> np.ndarray | None:
        """What a clipped norm has to know of all partitions."""
        partition = self._partition
        return sums_of_squares(
            partition._optimizer,
            partition._dense.layout,
            self._trainable,
            self._num_tables,
            gradients,
        )

    def apply(self, gradients: Gradients, learning_rate: float | None) -> None:
        """Update every group."""
        partition = self._partition
        every = np.ones(len(partition._groups), bool)
        partition._update(
            gradients,
            self._rows,
            [partition._check_hosted(ids) for ids, _ in gradients.tables],
            partition._rates.of_update(learning_rate, partition.progress.iterations, every),
            every,
        )

    def closed(self, version: int) -> None:
        """Pin this version, and snapshot it, if it is to be."""
        self._partition._pins.reached(version)
        self._partition._snapshots.reached(version)
