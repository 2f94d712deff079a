"""The loops over rows of a table's image, compiled by numba as those of `elasticdl.ps.kernels`.

A row's place says where the image holds it: 0 where the table's own row is still as it was, p + 1
where its copy is row p of what was saved, `ABSENT` where the image holds nothing there.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import float32, int32, int64, njit, void

from elasticdl.ps.kernels import LINE_FLOATS, prefetch, read_only

ABSENT = -1

_PREFETCH_DISTANCE = 16


@njit(
    int64(
        int64[:, ::1],
        int64,
        read_only(int64),
        read_only(float32, 2),
        read_only(int64, 2),
        float32[:, ::1],
        int64[:, ::1],
        int64,
    ),
    nogil=True,
    cache=True,
)
def save_rows(places, num_places, rows, storage, row_ids, saved, saved_ids, num_saved):
    """Copy those of some rows that the image has and has not saved yet; return how many it has."""
    num_columns = saved.shape[1]
    for i in range(len(rows)):
        if i + 2 * _PREFETCH_DISTANCE < len(rows):
            ahead = rows[i + 2 * _PREFETCH_DISTANCE]
            if ahead < num_places:
                prefetch(places, ahead, 0)
        if i + _PREFETCH_DISTANCE < len(rows):
            ahead = rows[i + _PREFETCH_DISTANCE]
            if ahead < num_places and places[ahead, 0] == 0:
                prefetch(row_ids, ahead, 0)
                for column in range(0, num_columns, LINE_FLOATS):
                    prefetch(storage, ahead, column)
        row = rows[i]
        if row < num_places and places[row, 0] == 0:
            for j in range(num_columns):
                saved[num_saved, j] = storage[row, j]
            saved_ids[num_saved, 0] = row_ids[row, 0]
            num_saved += 1
            places[row, 0] = num_saved
    return num_saved


@njit(
    int64(
        read_only(int64, 2),
        int64,
        read_only(int64),
        int64[::1],
        read_only(float32, 2),
        read_only(float32, 2),
        read_only(int64, 2),
        float32[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def gather_image(places, num_places, ids, rows, storage, saved, saved_ids, values):
    """Copy the image's rows of some ids, given where these are now; set others' rows to -1.

    Returns:
      How many ids the image does not hold at their rows.
    """
    num_ids, num_columns = values.shape
    num_missing = 0
    for i in range(num_ids):
        if i + _PREFETCH_DISTANCE < num_ids:
            ahead = rows[i + _PREFETCH_DISTANCE]
            if 0 <= ahead < num_places:
                prefetch(places, ahead, 0)
                for column in range(0, num_columns, LINE_FLOATS):
                    prefetch(storage, ahead, column)
        row = rows[i]
        if row < 0 or row >= num_places:
            rows[i] = -1
            num_missing += 1
            continue
        place = places[row, 0]
        if place == 0:
            for j in range(num_columns):
                values[i, j] = storage[row, j]
        elif place > 0 and saved_ids[place - 1, 0] == ids[i]:
            for j in range(num_columns):
                values[i, j] = saved[place - 1, j]
        else:
            rows[i] = -1
            num_missing += 1
    return num_missing


@njit(
    int64(
        read_only(int64, 2),
        int64[::1],
        read_only(float32, 2),
        read_only(int64, 2),
        read_only(float32, 2),
        read_only(int64, 2),
        int64[::1],
        float32[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def read_image(places, rows, storage, row_ids, saved, saved_ids, ids, values):
    """Copy the image's ids and content of some rows; return how many of these it holds.

    `rows` is written to: those that it holds come first.
    """
    num_found = 0
    for i in range(len(rows)):
        row = rows[i]
        place = places[row, 0]
        if place < 0:
            continue
        if place == 0:
            ids[num_found] = row_ids[row, 0]
            for j in range(values.shape[1]):
                values[num_found, j] = storage[row, j]
        else:
            ids[num_found] = saved_ids[place - 1, 0]
            for j in range(values.shape[1]):
                values[num_found, j] = saved[place - 1, j]
        rows[num_found] = row
        num_found += 1
    return num_found


@njit(void(int32[:, ::1], read_only(int64), int32), nogil=True, cache=True)
def mark_rows(marks, rows, mark):
    """Set the mark of some rows."""
    for i in range(len(rows)):
        if i + _PREFETCH_DISTANCE < len(rows):
            prefetch(marks, rows[i + _PREFETCH_DISTANCE], 0)
        marks[rows[i], 0] = mark


@njit(void(int64[:, ::1], int64, read_only(int64)), nogil=True, cache=True)
def mark_absent(places, num_places, rows):
    """Say that the image holds nothing at some rows."""
    for i in range(len(rows)):
        if rows[i] < num_places and places[rows[i], 0] == 0:
            places[rows[i], 0] = ABSENT
