"""A minibatch's gradients of looked-up rows, summed by row.

TensorFlow's `unsorted_segment_sum` calls a function for every row it adds, which takes ten times as
long as to add it.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numba import boolean, float32, int32, njit, types

from elasticdl.memory import POOL
from elasticdl.worker.tensors import as_array

_EXPONENT = np.uint32(0x7F800000)


@njit(
    boolean(
        types.Array(float32, 2, "C", readonly=True),
        types.Array(int32, 1, "C", readonly=True),
        float32[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def _sum_by_row(values, rows, sums):
    """Sum values by row; return whether each of the rows is there."""
    sums[:] = 0
    dim = values.shape[1]
    for i in range(len(rows)):
        row = rows[i]
        if row < 0 or row >= len(sums):
            return False
        for j in range(dim):
            sums[row, j] += values[i, j]
    return True


@njit(boolean(float32[:, ::1]), nogil=True, cache=True)
def _are_finite(sums):
    bits = sums.reshape(-1).view(np.uint32)
    num_others = np.uint32(0)
    for i in range(len(bits)):
        num_others |= np.uint32((bits[i] & _EXPONENT) == _EXPONENT)
    return num_others == 0


def sum_by_row(values: np.ndarray, rows: np.ndarray, num_rows: int) -> tuple[np.ndarray, bool]:
    """Sum gradients by row.

    Args:
      values: float32 ``[n, dim]``.
      rows: of each of them, int32 ``[n]``.
      num_rows: how many there are.

    Returns:
      float32 ``[num_rows, dim]``, and whether all of that is finite.

    Raises:
      ValueError: a row is not there.
    """
    sums = POOL.float32s(num_rows, values.shape[1])
    if len(rows) != len(values) or not _sum_by_row(values, rows, sums):
        raise ValueError(f"a gradient is of a row that is not there; there are {num_rows}")
    return sums, bool(_are_finite(sums))


def sum_in_step(
    gradient: tf.Tensor | tf.IndexedSlices, table: tf.Tensor, always: bool
) -> tf.Tensor | tf.IndexedSlices:
    """Return a table's gradient, summed by row in the traced step if need be.

    Args:
      gradient: of the rows.
      table: the minibatch's distinct rows.
      always: whether the step goes on with the sums.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    if gradient.dtype is tf.float32 and gradient.values.shape.rank == 2 and not always:
        return gradient
    num_rows = tf.shape(table)[0]
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, num_rows)


@dataclass(frozen=True)
class RowGradients:
    """How the gradients of the tables' rows leave a traced step: summed there, or to be summed.

    Attributes:
      is_summed: by table.
    """

    is_summed: tuple[bool, ...]

    @classmethod
    def leaving(
        cls, gradients: Sequence[tf.Tensor | tf.IndexedSlices]
    ) -> tuple[RowGradients, list[tf.Tensor]]:
        """Return how these do, and the tensors that do."""
        parts: list[tf.Tensor] = []
        for each in gradients:
            if isinstance(each, tf.IndexedSlices):
                parts += [each.values, tf.cast(each.indices, tf.int32)]
            else:
                parts.append(each)
        return cls(tuple(not isinstance(each, tf.IndexedSlices) for each in gradients)), parts

    def arrived(
        self, parts: Sequence[tf.Tensor], num_rows: Sequence[int]
    ) -> tuple[tuple[np.ndarray, ...], bool]:
        """Return each table's gradients, summed, and whether those summed here are finite.

        Args:
          parts: what left the step.
          num_rows: of each table.
        """
        remaining: Iterator[np.ndarray] = map(as_array, parts)
        summed, finite = [], True
        for is_summed, count in zip(self.is_summed, num_rows, strict=True):
            gradient = next(remaining)
            if not is_summed:
                gradient, is_finite = sum_by_row(gradient, next(remaining), count)
                finite = finite and is_finite
            summed.append(gradient)
        return tuple(summed), finite
