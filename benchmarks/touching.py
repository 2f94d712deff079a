"""Loops that touch the memory that the kernels use, and do nothing with it: what memory allows."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import float32, int64, njit, void

from elasticdl.ps.kernels import LINE_FLOATS, prefetch, read_only

_SLOTS_AHEAD = 64
_ROWS_AHEAD = 32


@njit(int64(read_only(int64, 2), read_only(int64)), nogil=True, cache=True)
def read_slots(slots, places):
    """Read a slot of an index at each place; return something that depends on all."""
    total = int64(0)
    for i in range(len(places)):
        if i + _SLOTS_AHEAD < len(places):
            prefetch(slots, places[i + _SLOTS_AHEAD], 0)
        total += slots[places[i], 0]
    return total


@njit(float32(read_only(float32, 2), read_only(int64), int64), nogil=True, cache=True)
def read_rows(storage, rows, num_columns):
    """Read one float of each cache line of the leading columns of some rows."""
    total = float32(0)
    for i in range(len(rows)):
        if i + _ROWS_AHEAD < len(rows):
            for column in range(0, num_columns, LINE_FLOATS):
                prefetch(storage, rows[i + _ROWS_AHEAD], column)
        for column in range(0, num_columns, LINE_FLOATS):
            total += storage[rows[i], column]
    return total


@njit(void(float32[:, ::1], read_only(int64)), nogil=True, cache=True)
def change_rows(storage, rows):
    """Change one float of each cache line of some rows."""
    for i in range(len(rows)):
        if i + _ROWS_AHEAD < len(rows):
            for column in range(0, storage.shape[1], LINE_FLOATS):
                prefetch(storage, rows[i + _ROWS_AHEAD], column)
        for column in range(0, storage.shape[1], LINE_FLOATS):
            storage[rows[i], column] += float32(1)
