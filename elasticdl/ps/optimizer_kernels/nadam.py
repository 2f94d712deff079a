"""Nadam.

u_t = beta_1 * (1 - 0.96**t / 2);  U_t = u_1 * … * u_t
m += (g - m) * (1 - beta_1);  v += (g**2 - v) * (1 - beta_2)
h = u_{t+1} * m / (1 - U_{t+1}) + (1 - u_t) * g / (1 - U_t)
weight -= h * learning_rate / (sqrt(v / (1 - beta_2**t)) + epsilon)

Keras keeps U_t as a variable of the optimizer. Here it is a function of t, so that groups at other
iterations have theirs, and nothing but slots is stored: beta_1**t times a product that has come to
its limit, in float64, after a thousand factors.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 2
_NUM_FACTORS = 1000
_PRODUCTS = np.cumprod(1 - 0.5 * 0.96 ** np.arange(1, _NUM_FACTORS + 1))


@njit(inline="always")
def _product(beta_1, iteration):
    factors = _PRODUCTS[min(iteration, _NUM_FACTORS) - 1]
    return np.float32(np.float64(beta_1) ** np.float64(iteration) * factors)


@njit(inline="always")
def _u(beta_1, iteration):
    one, half = np.float32(1), np.float32(0.5)
    return beta_1 * (one - half * np.float32(0.96) ** np.float32(iteration))


@njit(inline="always")
def _coefficients(beta_1, beta_2, iteration):
    one = np.float32(1)
    return (
        _u(beta_1, iteration + 1),
        one - _product(beta_1, iteration + 1),
        one - _u(beta_1, iteration),
        one - _product(beta_1, iteration),
        one - beta_2 ** np.float32(iteration),
    )


@njit(inline="always")
def _step(momentum, velocity, gradient, learning_rate, coefficients, constants):
    _, _, one_minus_beta_1, one_minus_beta_2, epsilon = constants
    next_u, one_minus_next_product, one_minus_u, one_minus_product, correction = coefficients
    momentum = momentum + (gradient - momentum) * one_minus_beta_1
    velocity = velocity + (gradient * gradient - velocity) * one_minus_beta_2
    estimate = (next_u * momentum) / one_minus_next_product + (
        one_minus_u * gradient
    ) / one_minus_product
    step = (estimate * learning_rate) / (math.sqrt(velocity / correction) + epsilon)
    return momentum, velocity, step


@dense_kernel(NUM_SLOTS, 5)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    momentums, velocities = slots
    coefficients = _coefficients(constants[0], constants[1], iteration)
    for i in range(len(weights)):
        momentums[i], velocities[i], step = _step(
            momentums[i], velocities[i], gradients[i], learning_rate, coefficients, constants
        )
        weights[i] -= step


@row_kernel(5)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows; others keep weights and moments (lazy)."""
    dim = gradients.shape[1]
    iteration = np.int64(1)
    coefficients = _coefficients(constants[0], constants[1], iteration)
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        if iterations[i] != iteration:
            iteration = iterations[i]
            coefficients = _coefficients(constants[0], constants[1], iteration)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, dim + j], storage[row, 2 * dim + j], step = _step(
                storage[row, dim + j],
                storage[row, 2 * dim + j],
                gradients[i, j],
                learning_rate,
                coefficients,
                constants,
            )
            storage[row, j] -= step
