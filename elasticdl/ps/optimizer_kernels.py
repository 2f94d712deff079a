"""The optimizers' arithmetic, compiled by numba: float32, operation by operation as in Keras.

Each formula is written once, for one element; one loop applies it to dense vectors, another to rows
of a table, whose weights and slots lie side by side. Kernels check nothing: see `optimizers`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import float32, int64, njit, types, void

from elasticdl.ps.kernels import LINE_FLOATS, prefetch, read_only

_PREFETCH_DISTANCE = 8
_VECTOR = float32[::1]
_GRADIENT = read_only(float32)
_STORAGE = float32[:, ::1]
_ROWS = read_only(int64)
_ROW_GRADIENTS = read_only(float32, 2)


@njit(inline="always")
def _velocity_after(velocity, gradient, learning_rate, momentum):
    return velocity * momentum - gradient * learning_rate


@njit(inline="always")
def _momentum_step(velocity, gradient, learning_rate, momentum, nesterov):
    return velocity * momentum - gradient * learning_rate if nesterov else velocity


@njit(inline="always")
def _adagrad_step(accumulator, gradient, learning_rate, epsilon):
    return (learning_rate * gradient) / math.sqrt(accumulator + epsilon)


@njit(inline="always")
def _moment_after(moment, sample, one_minus_beta):
    return moment + (sample - moment) * one_minus_beta


@njit(inline="always")
def _adam_step(momentum, velocity, step_size, epsilon):
    return (momentum * step_size) / (math.sqrt(velocity) + epsilon)


@njit(inline="always")
def _adam_step_size(learning_rate, beta_1, beta_2, iteration):
    one = np.float32(1)
    step = np.float32(iteration)
    return learning_rate * math.sqrt(one - beta_2**step) / (one - beta_1**step)


@njit(inline="always")
def _prefetch_row(storage, rows, i):
    if i + _PREFETCH_DISTANCE < len(rows):
        for column in range(0, storage.shape[1], LINE_FLOATS):
            prefetch(storage, rows[i + _PREFETCH_DISTANCE], column)


# Dense vectors ------------------------------------------------------------------------------------


@njit(void(_VECTOR, _GRADIENT, float32), nogil=True, cache=True)
def sgd_dense(weights, gradients, learning_rate):
    """Apply SGD.

    weight -= learning_rate * g
    """
    for i in range(len(weights)):
        weights[i] -= gradients[i] * learning_rate


@njit(void(_VECTOR, _VECTOR, _GRADIENT, float32, float32, types.boolean), nogil=True, cache=True)
def momentum_dense(weights, velocities, gradients, learning_rate, momentum, nesterov):
    """Apply SGD with momentum.

    v = momentum * v - learning_rate * g
    weight += momentum * v - learning_rate * g  if nesterov, else  weight += v
    """
    for i in range(len(weights)):
        velocity = _velocity_after(velocities[i], gradients[i], learning_rate, momentum)
        velocities[i] = velocity
        weights[i] += _momentum_step(velocity, gradients[i], learning_rate, momentum, nesterov)


@njit(
    void(_VECTOR, _VECTOR, _GRADIENT, float32, float32),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def adagrad_dense(weights, accumulators, gradients, learning_rate, epsilon):
    """Apply Adagrad.

    accumulator += g**2;  weight -= learning_rate * g / sqrt(accumulator + epsilon)
    """
    for i in range(len(weights)):
        accumulator = accumulators[i] + gradients[i] * gradients[i]
        accumulators[i] = accumulator
        weights[i] -= _adagrad_step(accumulator, gradients[i], learning_rate, epsilon)


@njit(
    void(
        _VECTOR, _VECTOR, _VECTOR, _GRADIENT,
        float32, float32, float32, float32, float32, float32, int64,
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)  # fmt: skip
def adam_dense(
    weights,
    momentums,
    velocities,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    one_minus_beta_1,
    one_minus_beta_2,
    epsilon,
    iteration,
):
    """Apply Adam.

    m += (g - m) * (1 - beta_1);  v += (g**2 - v) * (1 - beta_2)
    weight -= m * learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) / (sqrt(v) + epsilon)
    """
    step_size = _adam_step_size(learning_rate, beta_1, beta_2, iteration)
    for i in range(len(weights)):
        gradient = gradients[i]
        momentum = _moment_after(momentums[i], gradient, one_minus_beta_1)
        velocity = _moment_after(velocities[i], gradient * gradient, one_minus_beta_2)
        momentums[i] = momentum
        velocities[i] = velocity
        weights[i] -= _adam_step(momentum, velocity, step_size, epsilon)


# Rows of a table ----------------------------------------------------------------------------------


@njit(void(_STORAGE, _ROWS, _ROW_GRADIENTS, float32), nogil=True, cache=True)
def sgd_rows(storage, rows, gradients, learning_rate):
    """Apply SGD to some rows."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        _prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, j] -= gradients[i, j] * learning_rate


@njit(
    void(_STORAGE, _ROWS, _ROW_GRADIENTS, float32, float32, types.boolean), nogil=True, cache=True
)
def momentum_rows(storage, rows, gradients, learning_rate, momentum, nesterov):
    """Apply SGD with momentum to some rows; others keep weights and velocities (lazy)."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        _prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            gradient = gradients[i, j]
            velocity = _velocity_after(storage[row, dim + j], gradient, learning_rate, momentum)
            storage[row, dim + j] = velocity
            storage[row, j] += _momentum_step(velocity, gradient, learning_rate, momentum, nesterov)


@njit(
    void(_STORAGE, _ROWS, _ROW_GRADIENTS, float32, float32),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def adagrad_rows(storage, rows, gradients, learning_rate, epsilon):
    """Apply Adagrad to some rows."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        _prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            gradient = gradients[i, j]
            accumulator = storage[row, dim + j] + gradient * gradient
            storage[row, dim + j] = accumulator
            storage[row, j] -= _adagrad_step(accumulator, gradient, learning_rate, epsilon)


@njit(
    void(
        _STORAGE, _ROWS, _ROW_GRADIENTS,
        float32, float32, float32, float32, float32, float32, _ROWS,
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)  # fmt: skip
def adam_rows(
    storage,
    rows,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    one_minus_beta_1,
    one_minus_beta_2,
    epsilon,
    iterations,
):
    """Apply Adam to some rows; others keep weights and moments (lazy)."""
    dim = gradients.shape[1]
    iteration = np.int64(-1)
    step_size = np.float32(0)
    for i in range(len(rows)):
        _prefetch_row(storage, rows, i)
        if iterations[i] != iteration:
            iteration = iterations[i]
            step_size = _adam_step_size(learning_rate, beta_1, beta_2, iteration)
        row = np.uint64(rows[i])
        for j in range(dim):
            gradient = gradients[i, j]
            momentum = _moment_after(storage[row, dim + j], gradient, one_minus_beta_1)
            velocity = _moment_after(
                storage[row, 2 * dim + j], gradient * gradient, one_minus_beta_2
            )
            storage[row, dim + j] = momentum
            storage[row, 2 * dim + j] = velocity
            storage[row, j] -= _adam_step(momentum, velocity, step_size, epsilon)
