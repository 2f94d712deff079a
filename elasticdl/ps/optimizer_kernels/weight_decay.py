"""Decoupled weight decay, before any optimizer's update: weight -= weight * decay * learning_rate.

A pass of its own, so that jobs without it pay nothing.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit, void

from elasticdl.ps.kernels import read_only
from elasticdl.ps.optimizer_kernels import prefetch_row


@njit(void(float32[::1], float32, float32), nogil=True, cache=True)
def dense(weights, learning_rate, decay):
    """Shrink vectors."""
    for i in range(len(weights)):
        weights[i] -= weights[i] * decay * learning_rate


@njit(void(float32[:, ::1], read_only(int64), int64, float32, float32), nogil=True, cache=True)
def rows(storage, rows, dim, learning_rate, decay):
    """Shrink the weights of some rows; others keep theirs (lazy)."""
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, j] -= storage[row, j] * decay * learning_rate
