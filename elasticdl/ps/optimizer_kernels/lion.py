"""Lion.

weight -= learning_rate * sign(beta_1 * m + (1 - beta_1) * g);  m = beta_2 * m + (1 - beta_2) * g
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 1


@njit(inline="always")
def _step(momentum, gradient, learning_rate, constants):
    beta_1, beta_2, one_minus_beta_1, one_minus_beta_2 = constants
    direction = np.sign(momentum * beta_1 + gradient * one_minus_beta_1)
    return momentum * beta_2 + gradient * one_minus_beta_2, learning_rate * direction


@dense_kernel(NUM_SLOTS, 4)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    (momentums,) = slots
    for i in range(len(weights)):
        momentums[i], step = _step(momentums[i], gradients[i], learning_rate, constants)
        weights[i] -= step


@row_kernel(4)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and momentums (lazy)."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], step = _step(
                storage[row, dim + j], gradients[i, j], learning_rate, constants
            )
            storage[row, j] -= step
