"""Adamax.

m += (g - m) * (1 - beta_1);  u = max(beta_2 * u, |g|)
weight -= learning_rate * m / ((1 - beta_1**t) * (u + epsilon))
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 2


@njit(inline="always")
def _correction(beta_1, iteration):
    return np.float32(1) - beta_1 ** np.float32(iteration)


@njit(inline="always")
def _step(momentum, norm, gradient, learning_rate, correction, constants):
    _, beta_2, one_minus_beta_1, epsilon = constants
    momentum = momentum + (gradient - momentum) * one_minus_beta_1
    norm = max(beta_2 * norm, abs(gradient))
    return momentum, norm, (learning_rate * momentum) / (correction * (norm + epsilon))


@dense_kernel(NUM_SLOTS, 4)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    momentums, norms = slots
    correction = _correction(constants[0], iteration)
    for i in range(len(weights)):
        momentums[i], norms[i], step = _step(
            momentums[i], norms[i], gradients[i], learning_rate, correction, constants
        )
        weights[i] -= step


@row_kernel(4)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights, momentums and norms (lazy)."""
    dim = gradients.shape[1]
    iteration = np.int64(-1)
    correction = np.float32(1)
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        if iterations[i] != iteration:
            iteration = iterations[i]
            correction = _correction(constants[0], iteration)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], storage[row, 2 * dim + j], step = _step(
                storage[row, dim + j],
                storage[row, 2 * dim + j],
                gradients[i, j],
                learning_rate,
                correction,
                constants,
            )
            storage[row, j] -= step
