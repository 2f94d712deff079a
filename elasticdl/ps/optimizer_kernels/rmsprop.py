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


@njit(inline="always")
def _step(velocity, moved, average, gradient, learning_rate, constants, centered, moves):
    rho, one_minus_rho, momentum, epsilon, _ = constants
    velocity = _velocity(velocity, gradient, rho, one_minus_rho)
    spread = velocity
    if centered:
        average = _average(average, gradient, rho, one_minus_rho)
        spread = velocity - average * average
    step = (learning_rate * gradient) / math.sqrt(spread + epsilon)
    if moves:
        step = momentum * moved + step
    return velocity, average, step


@row_kernel(5)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and averages (lazy)."""
    _, _, momentum, _, is_centered = constants
    centered, moves = is_centered != 0, momentum != 0
    dim = gradients.shape[1]
    averages = 3 * dim if moves else 2 * dim
    zero = np.float32(0)
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        # A loop for each kind: one with branches inside takes twice as long.
        if centered and moves:
            for j in range(dim):
                storage[row, dim + j], storage[row, averages + j], step = _step(
                    storage[row, dim + j],
                    storage[row, 2 * dim + j],
                    storage[row, averages + j],
                    gradients[i, j],
                    learning_rate,
                    constants,
                    True,
                    True,
                )
                storage[row, 2 * dim + j] = step
                storage[row, j] -= step
        elif centered:
            for j in range(dim):
                storage[row, dim + j], storage[row, averages + j], step = _step(
                    storage[row, dim + j],
                    zero,
                    storage[row, averages + j],
                    gradients[i, j],
                    learning_rate,
                    constants,
                    True,
                    False,
                )
                storage[row, j] -= step
        elif moves:
            for j in range(dim):
                storage[row, dim + j], _, step = _step(
                    storage[row, dim + j],
                    storage[row, 2 * dim + j],
                    zero,
                    gradients[i, j],
                    learning_rate,
                    constants,
                    False,
                    True,
                )
                storage[row, 2 * dim + j] = step
                storage[row, j] -= step
        else:
            for j in range(dim):
                storage[row, dim + j], _, step = _step(
                    storage[row, dim + j],
                    zero,
                    zero,
                    gradients[i, j],
                    learning_rate,
                    constants,
                    False,
                    False,
                )
                storage[row, j] -= step
