"""Where bucket groups live. Apart from the kernels, so that the master need not load them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elasticdl.ps.arrays import require


@dataclass(frozen=True, eq=False)
class RoutingTable:
    """Which partition holds each bucket group.

    Args:
      version: grows with every change.
      partition_of_group: int32 ``[num_groups]``, read-only from now on.

    Raises:
      ValueError: no groups, or a negative partition.
    """

    version: int
    partition_of_group: np.ndarray

    def __post_init__(self) -> None:
        groups = require("partition_of_group", self.partition_of_group, np.int32, (None,)).copy()
        if not len(groups) or groups.min() < 0:
            raise ValueError("partition_of_group needs groups, and partitions from 0 on")
        groups.flags.writeable = False
        object.__setattr__(self, "partition_of_group", groups)

    @classmethod
    def initial(cls, num_groups: int, num_partitions: int) -> RoutingTable:
        """Deal the groups out to the partitions in turn, as version 0."""
        if not 1 <= num_partitions <= num_groups:
            raise ValueError(f"{num_partitions} partitions for {num_groups} groups; 1 to as many")
        return cls(0, (np.arange(num_groups) % num_partitions).astype(np.int32))

    def dealt_to(self, num_partitions: int) -> RoutingTable:
        """Deal the same groups out to so many partitions in turn, as the next version."""
        dealt = RoutingTable.initial(self.num_groups, num_partitions)
        return RoutingTable(self.version + 1, dealt.partition_of_group)

    @property
    def num_groups(self) -> int:
        """How many bucket groups there are; fixed for the life of a job."""
        return len(self.partition_of_group)

    @property
    def num_partitions(self) -> int:
        """How many partitions the groups are spread over."""
        return int(self.partition_of_group.max()) + 1

    def groups_of(self, partition: int) -> np.ndarray:
        """Return the groups that one partition holds, ascending, int64."""
        return np.flatnonzero(self.partition_of_group == partition)
