"""Adam, and AdamW, whose weight decay comes before it.

m += (g - m) * (1 - beta_1);  v += (g**2 - v) * (1 - beta_2)
weight -= m * learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) / (sqrt(v) + epsilon)
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 2


@njit(inline="always")
def _step_size(learning_rate, beta_1, beta_2, iteration):
    one = np.float32(1)
    step = np.float32(iteration)
    return learning_rate * math.sqrt(one - beta_2**step) / (one - beta_1**step)


@njit(inline="always")
def _step(momentum, velocity, gradient, step_size, one_minus_beta_1, one_minus_beta_2, epsilon):
    momentum = momentum + (gradient - momentum) * one_minus_beta_1
    velocity = velocity + (gradient * gradient - velocity) * one_minus_beta_2
    return momentum, velocity, (momentum * step_size) / (math.sqrt(velocity) + epsilon)


@dense_kernel(NUM_SLOTS, 5)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    momentums, velocities = slots
    beta_1, beta_2, one_minus_beta_1, one_minus_beta_2, epsilon = constants
    step_size = _step_size(learning_rate, beta_1, beta_2, iteration)
    for i in range(len(weights)):
        momentums[i], velocities[i], step = _step(
            momentums[i],
            velocities[i],
            gradients[i],
            step_size,
            one_minus_beta_1,
            one_minus_beta_2,
            epsilon,
        )
        weights[i] -= step


@row_kernel(5)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and moments (lazy)."""
    beta_1, beta_2, one_minus_beta_1, one_minus_beta_2, epsilon = constants
    dim = gradients.shape[1]
    iteration = np.int64(-1)
    step_size = np.float32(0)
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        if iterations[i] != iteration:
            iteration = iterations[i]
            step_size = _step_size(learning_rate, beta_1, beta_2, iteration)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], storage[row, 2 * dim + j], step = _step(
                storage[row, dim + j],
                storage[row, 2 * dim + j],
                gradients[i, j],
                step_size,
                one_minus_beta_1,
                one_minus_beta_2,
                epsilon,
            )
            storage[row, j] -= step
