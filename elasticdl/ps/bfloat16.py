"""Weights and gradients as bfloat16: the upper half of a float32, half as long on the wire.

numpy has no such type; here it is uint16, bit for bit.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import int64, njit, uint16, uint32, void

from elasticdl.memory import POOL
from elasticdl.ps.kernels import LINE_FLOATS, prefetch, read_only

_DISTANCE = 16


@njit(inline="always")
def _rounded(bits):
    """Return the nearest bfloat16, of two as near the even one; of a NaN, the plain one."""
    if np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        return np.uint16(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)) | np.uint16(0x7FC0)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(void(read_only(uint32), uint16[::1]), nogil=True, cache=True)
def _narrow(values, halves):
    for i in range(len(values)):
        halves[i] = _rounded(values[i])


@njit(void(read_only(uint16), uint32[::1]), nogil=True, cache=True)
def _widen(halves, values):
    for i in range(len(halves)):
        values[i] = np.uint32(halves[i]) << np.uint32(16)


@njit(void(read_only(uint32, 2), read_only(int64), uint16[:, ::1]), nogil=True, cache=True)
def _gather(storage, rows, halves):
    num_rows, num_columns = halves.shape
    for i in range(num_rows):
        if i + _DISTANCE < num_rows:
            for column in range(0, num_columns, LINE_FLOATS):
                prefetch(storage, rows[i + _DISTANCE], column)
        row = rows[i]
        if row >= 0:
            for j in range(num_columns):
                halves[i, j] = _rounded(storage[np.uint64(row), j])


def narrow(*pieces: np.ndarray) -> np.ndarray:
    """Return some float32 arrays, one after the other, rounded to the nearest; uint16 ``[n]``.

    Of two as near it is the even one, and beyond the largest it is infinity, as IEEE 754 rounds.
    NaNs stay NaNs.
    """
    halves = POOL.array(np.uint16, sum(piece.size for piece in pieces))
    end = 0
    for piece in pieces:
        start, end = end, end + piece.size
        _narrow(np.ascontiguousarray(piece).reshape(-1).view(np.uint32), halves[start:end])
    return halves


def widen(halves: np.ndarray, values: np.ndarray) -> None:
    """Set float32 values exactly to those of uint16 ``halves`` of the same shape, C-contiguous."""
    _widen(halves.reshape(-1), values.reshape(-1).view(np.uint32))


def widened(halves: np.ndarray) -> np.ndarray:
    """Return float32 values of the same shape, exactly those of uint16 ``halves``."""
    values = POOL.array(np.float32, *halves.shape)
    widen(halves, values)
    return values


def gather_narrow(storage: np.ndarray, rows: np.ndarray, halves: np.ndarray) -> None:
    """Copy the leading columns of some rows of a float32 storage into uint16 ``[n, columns]``.

    Those of row -1 are left as they are.
    """
    _gather(storage.view(np.uint32), rows, halves)
