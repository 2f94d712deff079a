"""Adagrad: accumulator += g**2;  weight -= learning_rate * g / sqrt(accumulator + epsilon)."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 1


@njit(inline="always")
def _step(accumulator, gradient, learning_rate, epsilon):
    accumulator = accumulator + gradient * gradient
    return accumulator, (learning_rate * gradient) / math.sqrt(accumulator + epsilon)


@dense_kernel(NUM_SLOTS, 1)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    (accumulators,) = slots
    (epsilon,) = constants
    for i in range(len(weights)):
        accumulators[i], step = _step(accumulators[i], gradients[i], learning_rate, epsilon)
        weights[i] -= step


@row_kernel(1)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows."""
    (epsilon,) = constants
    dim = gradients.shape[1]
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], step = _step(
                storage[row, dim + j], gradients[i, j], learning_rate, epsilon
            )
            storage[row, j] -= step
