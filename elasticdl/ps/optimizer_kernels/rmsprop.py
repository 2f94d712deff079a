"""RMSprop, centered or not, with momentum or without.

v = rho * v + (1 - rho) * g**2
a = rho * a + (1 - rho) * g, and d = v - a**2 + epsilon  if centered, else  d = v + epsilon
s = learning_rate * g / sqrt(d)
m = momentum * m + s, and weight -= m  with momentum, else  weight -= s
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 3  # at most: v, m with momentum, a if centered


@njit(inline="always")
def _velocity(velocity, gradient, rho, one_minus_rho):
    return rho * velocity + one_minus_rho * (gradient * gradient)


@njit(inline="always")
def _average(average, gradient, rho, one_minus_rho):
    return rho * average + one_minus_rho * gradient


@dense_kernel(NUM_SLOTS, 5)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    rho, one_minus_rho, momentum, epsilon, is_centered = constants
    centered, moves = is_centered != 0, momentum != 0
    velocities, momentums = slots[0], slots[1]
    averages = slots[2] if moves else slots[1]
    for i in range(len(weights)):
        gradient = gradients[i]
        velocity = _velocity(velocities[i], gradient, rho, one_minus_rho)
        velocities[i] = velocity
        if centered:
            average = _average(averages[i], gradient, rho, one_minus_rho)
            averages[i] = average
            velocity -= average * average
        step = (learning_rate * gradient) / math.sqrt(velocity + epsilon)
        if moves:
            step = momentum * momentums[i] + step
            momentums[i] = step
        weights[i] -= step


@row_kernel(5)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and averages (lazy)."""
    rho, one_minus_rho, momentum, epsilon, is_centered = constants
    centered, moves = is_centered != 0, momentum != 0
    dim = gradients.shape[1]
    averages = 3 * dim if moves else 2 * dim
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            gradient = gradients[i, j]
            velocity = _velocity(storage[row, dim + j], gradient, rho, one_minus_rho)
            storage[row, dim + j] = velocity
            if centered:
                average = _average(storage[row, averages + j], gradient, rho, one_minus_rho)
                storage[row, averages + j] = average
                velocity -= average * average
            step = (learning_rate * gradient) / math.sqrt(velocity + epsilon)
            if moves:
                step = momentum * storage[row, 2 * dim + j] + step
                storage[row, 2 * dim + j] = step
            storage[row, j] -= step
