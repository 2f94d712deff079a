"""Ftrl.

p = -learning_rate_power;  n = accumulator + g**2
linear += g + 2 * l2_shrinkage * weight - (n**p - accumulator**p) / learning_rate * weight
weight = (clip(linear, -l1, l1) - linear) / (n**p / learning_rate + 2 * l2 + beta / learning_rate)
accumulator = n
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 2


@njit(inline="always")
def _power(value, power, is_root):
    # The usual power, one half, costs a tenth so.
    return math.sqrt(value) if is_root else value**power


@njit(inline="always")
def _twice_l2(learning_rate, constants):
    _, _, l2, _, beta = constants
    two = np.float32(2)
    return two * (l2 + beta / (two * learning_rate))


@njit(inline="always")
def _step(weight, accumulator, linear, gradient, learning_rate, twice_l2, constants, is_root):
    power, l1, _, twice_l2_shrinkage, _ = constants
    squares = accumulator + gradient * gradient
    of_squares = _power(squares, power, is_root)
    shrunk = gradient + twice_l2_shrinkage * weight
    linear += shrunk - (of_squares - _power(accumulator, power, is_root)) / learning_rate * weight
    clipped = min(max(linear, -l1), l1)
    return squares, linear, (clipped - linear) / (of_squares / learning_rate + twice_l2)


@dense_kernel(NUM_SLOTS, 5)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    accumulators, linears = slots
    twice_l2 = _twice_l2(learning_rate, constants)
    is_root = constants[0] == np.float32(0.5)
    for i in range(len(weights)):
        accumulators[i], linears[i], weights[i] = _step(
            weights[i],
            accumulators[i],
            linears[i],
            gradients[i],
            learning_rate,
            twice_l2,
            constants,
            is_root,
        )


@njit(inline="always")
def _update_row(storage, row, gradient_of, learning_rate, twice_l2, constants, is_root):
    """Update one row; called with what is known when it is compiled, the loop has no branches."""
    dim = len(gradient_of)
    for j in range(dim):
        storage[row, dim + j], storage[row, 2 * dim + j], storage[row, j] = _step(
            storage[row, j],
            storage[row, dim + j],
            storage[row, 2 * dim + j],
            gradient_of[j],
            learning_rate,
            twice_l2,
            constants,
            is_root,
        )


@row_kernel(5)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights, accumulators and linear terms (lazy)."""
    twice_l2 = _twice_l2(learning_rate, constants)
    is_root = constants[0] == np.float32(0.5)
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        if is_root:
            _update_row(storage, row, gradients[i], learning_rate, twice_l2, constants, True)
        else:
            _update_row(storage, row, gradients[i], learning_rate, twice_l2, constants, False)
