"""The loops over lists of rows by age, compiled by numba as those of `elasticdl.ps.kernels`.

Every bucket group has a list of its rows, doubly linked, in the order of (last update, id). A row's
links are (previous, next, last, group); a group's ends are (first, last, count). -1 is no row.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import int64, njit, void

from elasticdl.ps.kernels import read_only

PREVIOUS, NEXT, LAST, GROUP = range(4)
"""Columns of a row's links."""

FIRST, FINAL, COUNT = range(3)
"""Columns of a group's ends. The count holds rows of the group that are taken out, too."""

NEVER = -1
"""A horizon that no row is beyond; a row without an id has this as its last update."""

NEW, REFUSED = -1, -2
"""In the place of a row: an id without one, and one that gets none."""


@njit(inline="always")
def _unlink(links, ends, row):
    group = links[row, GROUP]
    before, after = links[row, PREVIOUS], links[row, NEXT]
    if before >= 0:
        links[before, NEXT] = after
    else:
        ends[group, FIRST] = after
    if after >= 0:
        links[after, PREVIOUS] = before
    else:
        ends[group, FINAL] = before


@njit(inline="always")
def _drop_first(links, ends, group):
    row = ends[group, FIRST]
    _unlink(links, ends, row)
    ends[group, COUNT] -= 1
    links[row, LAST] = NEVER
    return row


@njit(void(int64[:, ::1], int64[:, ::1], read_only(int64)), nogil=True, cache=True)
def take_out(links, ends, rows):
    """Take rows out of their lists; they stay in the counts."""
    for i in range(len(rows)):
        if rows[i] >= 0:
            _unlink(links, ends, rows[i])


@njit(
    void(int64[:, ::1], int64[:, ::1], read_only(int64), read_only(int64), read_only(int64)),
    nogil=True,
    cache=True,
)
def put_back(links, ends, rows, groups, lasts):
    """Append rows to their groups' lists."""
    for i in range(len(rows)):
        row, group = rows[i], groups[i]
        final = ends[group, FINAL]
        links[row, PREVIOUS] = final
        links[row, NEXT] = -1
        links[row, LAST] = lasts[i]
        links[row, GROUP] = group
        if final >= 0:
            links[final, NEXT] = row
        else:
            ends[group, FIRST] = row
        ends[group, FINAL] = row


@njit(int64(int64[:, ::1], int64[:, ::1], read_only(int64)), nogil=True, cache=True)
def count_expired(links, ends, horizons):
    """Return how many rows were last updated at their group's horizon or before."""
    count = 0
    for group in range(len(horizons)):
        row = ends[group, FIRST]
        while row >= 0 and links[row, LAST] <= horizons[group]:
            count += 1
            row = links[row, NEXT]
    return count


@njit(void(int64[:, ::1], int64[:, ::1], read_only(int64), int64[::1]), nogil=True, cache=True)
def drop_expired(links, ends, horizons, dropped):
    """Drop these rows, and write which they are."""
    count = 0
    for group in range(len(horizons)):
        while True:
            row = ends[group, FIRST]
            if row < 0 or links[row, LAST] > horizons[group]:
                break
            dropped[count] = _drop_first(links, ends, group)
            count += 1


@njit(
    int64(int64[:, ::1], int64[:, ::1], int64[::1], read_only(int64), int64, int64[::1]),
    nogil=True,
    cache=True,
)
def make_room(links, ends, rows, groups, quota, dropped):
    """Count in an id of each `NEW` row, or mark it `REFUSED`: its group holds a quota of rows.

    The group's first row is dropped for it, if the group has one in its list.

    Returns:
      How many rows were dropped; `dropped` says which.
    """
    count = 0
    for i in range(len(rows)):
        if rows[i] != NEW:
            continue
        group = groups[i]
        if ends[group, COUNT] >= quota:
            if ends[group, FIRST] < 0:
                rows[i] = REFUSED
                continue
            dropped[count] = _drop_first(links, ends, group)
            count += 1
        ends[group, COUNT] += 1
    return count


@njit(void(int64[:, ::1], int64[:, ::1], read_only(int64)), nogil=True, cache=True)
def drop_rows(links, ends, rows):
    """Drop some rows, which are in their lists."""
    for i in range(len(rows)):
        _unlink(links, ends, rows[i])
        ends[links[rows[i], GROUP], COUNT] -= 1
        links[rows[i], LAST] = NEVER


def empty_ends(num_groups: int) -> np.ndarray:
    """Return the ends of so many lists without rows."""
    ends = np.full((num_groups, 3), -1, np.int64)
    ends[:, COUNT] = 0
    return ends
