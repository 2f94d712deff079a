"""SGD with momentum.

v = momentum * v - learning_rate * g
weight += momentum * v - learning_rate * g  if nesterov, else  weight += v
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 1


@njit(inline="always")
def _step(velocity, gradient, learning_rate, momentum, nesterov):
    velocity = velocity * momentum - gradient * learning_rate
    step = velocity * momentum - gradient * learning_rate if nesterov else velocity
    return velocity, step


@dense_kernel(NUM_SLOTS, 2)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    (velocities,) = slots
    momentum, is_nesterov = constants
    nesterov = is_nesterov != 0
    for i in range(len(weights)):
        velocities[i], step = _step(velocities[i], gradients[i], learning_rate, momentum, nesterov)
        weights[i] += step


@row_kernel(2)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and velocities (lazy)."""
    momentum, is_nesterov = constants
    nesterov = is_nesterov != 0
    dim = gradients.shape[1]
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], step = _step(
                storage[row, dim + j], gradients[i, j], learning_rate, momentum, nesterov
            )
            storage[row, j] += step
