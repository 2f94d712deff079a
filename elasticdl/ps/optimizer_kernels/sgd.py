"""SGD: weight -= learning_rate * g."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from elasticdl.ps.optimizer_kernels import dense_kernel, prefetch_row, row_kernel

NUM_SLOTS = 0


@dense_kernel(NUM_SLOTS, 0)
def dense(weights, slots, gradients, learning_rate, iteration, constants):
    """Update vectors."""
    for i in range(len(weights)):
        weights[i] -= gradients[i] * learning_rate


@row_kernel(0)
def rows(storage, rows, gradients, learning_rate, iterations, constants):
    """Update rows."""
    dim = gradients.shape[1]
    for i in range(len(rows)):
        prefetch_row(storage, rows, i)
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, j] -= gradients[i, j] * learning_rate
