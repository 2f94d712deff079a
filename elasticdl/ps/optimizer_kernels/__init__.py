"""The optimizers' arithmetic, compiled by numba: float32, operation by operation as in Keras.

One module for each optimizer, or variant of one, compiled when it is first imported: a job pays for
the one it uses. A module writes its formula once, for one element, mostly as `_step`; `dense`
applies it to vectors and `rows` to rows of a table, whose weights and slots lie side by side, in
one pass. The order of slots and constants is the one of the optimizer's entry in `update_rules`.
Kernels check nothing: see `optimizers`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from numba import float32, int64, njit, types, void

from elasticdl.ps.kernels import LINE_FLOATS, prefetch, read_only

_PREFETCH_DISTANCE = 8
_VECTOR = float32[::1]
_STORAGE = float32[:, ::1]


def dense_kernel(num_slots: int, num_constants: int) -> Any:
    """Return the decorator of a kernel that updates vectors.

    Its arguments: weights f32[n], a tuple of slots f32[n], gradients f32[n], the learning rate, the
    iteration (1 for the first update), a tuple of constants.
    """
    signature = void(
        _VECTOR,
        _tuple(_VECTOR, num_slots),
        read_only(float32),
        float32,
        int64,
        _tuple(float32, num_constants),
    )
    return njit(signature, nogil=True, cache=True, error_model="numpy")


def row_kernel(num_constants: int) -> Any:
    """Return the decorator of a kernel that updates rows.

    Its arguments: storage f32[capacity, dim * (1 + slots)], distinct rows i64[n], gradients
    f32[n, dim], the learning rate, the iteration of each row i64[n], a tuple of constants.
    """
    signature = void(
        _STORAGE,
        read_only(int64),
        read_only(float32, 2),
        float32,
        read_only(int64),
        _tuple(float32, num_constants),
    )
    return njit(signature, nogil=True, cache=True, error_model="numpy")


def _tuple(kind: Any, length: int) -> Any:
    return types.UniTuple(kind, length) if length else types.Tuple(())


@njit(inline="always")
def prefetch_row(storage, rows, i):
    """Ask for all cache lines of the row that comes some rows after the i-th."""
    if i + _PREFETCH_DISTANCE < len(rows):
        for column in range(0, storage.shape[1], LINE_FLOATS):
            prefetch(storage, rows[i + _PREFETCH_DISTANCE], column)
