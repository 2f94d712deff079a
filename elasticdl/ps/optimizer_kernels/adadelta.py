"""Adadelta.

a = rho * a + (1 - rho) * g**2
s = sqrt(d + epsilon) * g / sqrt(a + epsilon);  d = rho * d + (1 - rho) * s**2
weight -= learning_rate * s
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 2


@njit(inline="always")
def _step(of_gradients, of_steps, gradient, learning_rate, constants):
    rho, one_minus_rho, epsilon = constants
    of_gradients = rho * of_gradients + one_minus_rho * (gradient * gradient)
    step = (math.sqrt(of_steps + epsilon) * gradient) / math.sqrt(of_gradients + epsilon)
    of_steps = rho * of_steps + one_minus_rho * (step * step)
    return of_gradients, of_steps, learning_rate * step


@dense_kernel(NUM_SLOTS, 3)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    of_gradients, of_steps = slots
    for i in range(len(weights)):
        of_gradients[i], of_steps[i], step = _step(
            of_gradients[i], of_steps[i], gradients[i], learning_rate, constants
        )
        weights[i] -= step


@row_kernel(3)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and both averages (lazy)."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], storage[row, 2 * dim + j], step = _step(
                storage[row, dim + j],
                storage[row, 2 * dim + j],
                gradients[i, j],
                learning_rate,
                constants,
            )
            storage[row, j] -= step
