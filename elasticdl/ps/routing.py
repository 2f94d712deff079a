"""Ids by bucket group, and sorted by the partition they have to go to."""

from __future__ import annotations

import numpy as np

from elasticdl.ps import kernels
from elasticdl.ps.arrays import require


def group_of(ids: np.ndarray, num_groups: int) -> np.ndarray:
    """Return each id's bucket group, splitmix64(id) % num_groups, int32 ``[n]``."""
    ids = require("ids", ids, np.int64, (None,))
    if not 1 <= num_groups < 1 << 31:
        raise ValueError(f"num_groups is {num_groups}; it must be at least 1")
    groups = np.empty(len(ids), np.int32)
    kernels.hash_to_groups(ids, np.uint64(num_groups), groups)
    return groups


def positions_of(ids: np.ndarray, position_of_group: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the local position of each id's group, int64 ``[n]``, and whether none is below 0.

    Args:
      ids: int64 ``[n]``.
      position_of_group: int64 ``[num_groups]``.
    """
    ids = require("ids", ids, np.int64, (None,))
    if not len(position_of_group):  # The kernel would read what is not there.
        return np.full(len(ids), -1), not len(ids)
    positions = np.empty(len(ids), np.int64)
    return positions, kernels.hash_to_positions(ids, position_of_group, positions) >= 0


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
