"""Where bucket groups live, and ids sorted by where they have to go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elasticdl.ps import kernels
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


def group_of(ids: np.ndarray, num_groups: int) -> np.ndarray:
    """Return each id's bucket group, splitmix64(id) % num_groups, int32 ``[n]``."""
    ids = require("ids", ids, np.int64, (None,))
    if not 1 <= num_groups < 1 << 31:
        raise ValueError(f"num_groups is {num_groups}; it must be at least 1")
    groups = np.empty(len(ids), np.int32)
    kernels.hash_to_groups(ids, np.uint64(num_groups), groups)
    return groups


def deduplicate(
    ids: np.ndarray, partition_of_group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep each id once, ordered by partition (and within one by first occurrence).

    Args:
      ids: int64 ``[n]``.
      partition_of_group: int32 ``[num_groups]``, as in `RoutingTable`.

    Returns:
      unique: int64 ``[u]``.
      inverse: int32 ``[n]``, with ``unique[inverse] == ids``.
      offsets: int64 ``[num_partitions + 1]``; ``unique[offsets[p]:offsets[p + 1]]`` is partition
        p's.
    """
    ids = require("ids", ids, np.int64, (None,))
    partition_of_group = require("partition_of_group", partition_of_group, np.int32, (None,))
    if len(ids) >= 1 << 31:
        raise ValueError(f"{len(ids)} ids at once; at most {(1 << 31) - 1}")
    if not len(partition_of_group) or partition_of_group.min() < 0:
        raise ValueError("partition_of_group needs groups, and partitions from 0 on")
    return kernels.deduplicate(ids, partition_of_group, int(partition_of_group.max()) + 1)
