"""Gradients of several minibatches, averaged by records: those of one large minibatch."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import float32, int32, njit, void

from elasticdl.ps import kernels
from elasticdl.ps.kernels import read_only

_ONE_PARTITION = np.zeros(1, np.int32)


@dataclass(frozen=True)
class Gradients:
    """What one minibatch, or the average of some, changes on a partition.

    tables: distinct ids int64 ``[n]`` and gradients float32 ``[n, dim]`` of each table;
    dense: float32 ``[size]``, for model state the change.
    """

    tables: tuple[tuple[np.ndarray, np.ndarray], ...]
    dense: np.ndarray


def average(parts: Sequence[Gradients], num_records: Sequence[int]) -> Gradients:
    """Average by records: sum of num_records[i] / total * parts[i], added up in this order.

    The same parts in the same order give the same bits. An id that a part lacks counts as 0 there.

    Args:
      parts: of the same partition, at least one.
      num_records: how many records each is the mean of.
    """
    if len(parts) == 1:
        return parts[0]
    total = sum(num_records)
    scales = [np.float32(count / total if total else 1 / len(parts)) for count in num_records]
    dense = np.zeros(len(parts[0].dense), np.float32)
    for part, scale in zip(parts, scales, strict=True):
        _add_scaled(dense, part.dense, scale)
    tables = [
        _average_rows([part.tables[table] for part in parts], scales)
        for table in range(len(parts[0].tables))
    ]
    return Gradients(tuple(tables), dense)


def _average_rows(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], scales: Sequence[np.float32]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids, in the order of their first occurrence, and their averages."""
    ids, targets, _ = kernels.deduplicate(
        np.concatenate([ids for ids, _ in parts]), _ONE_PARTITION, 1
    )
    totals = np.zeros((len(ids), parts[0][1].shape[1]), np.float32)
    start = 0
    for (part_ids, gradients), scale in zip(parts, scales, strict=True):
        end = start + len(part_ids)
        _add_scaled_rows(totals, targets[start:end], gradients, scale)
        start = end
    return ids, totals


@njit(void(float32[::1], read_only(float32), float32), nogil=True, cache=True)
def _add_scaled(totals, values, scale):
    for i in range(len(totals)):
        totals[i] += scale * values[i]


@njit(
    void(float32[:, ::1], read_only(int32), read_only(float32, 2), float32),
    nogil=True,
    cache=True,
)
def _add_scaled_rows(totals, targets, values, scale):
    for i in range(len(targets)):
        target = targets[i]
        for j in range(totals.shape[1]):
            totals[target, j] += scale * values[i, j]
