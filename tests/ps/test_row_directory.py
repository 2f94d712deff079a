"""Rows of ids, and those that a lookup has found for the update that follows."""

from __future__ import annotations

import numpy as np
import pytest

from elasticdl.ps import row_directory
from elasticdl.ps.row_directory import RowDirectory


def directory_of(ids: np.ndarray) -> RowDirectory:
    directory = RowDirectory()
    directory.reserve(len(ids))
    directory.add(ids)
    return directory


def remember(directory: RowDirectory, ids: np.ndarray) -> np.ndarray:
    rows, num_missing = directory.find(ids)
    assert not num_missing
    directory.remember(ids, rows)
    return rows


def test_what_is_remembered_is_recalled_once_and_by_the_same_ids_only():
    directory = directory_of(np.arange(100))
    ids = np.array([5, 7, 9, 11])
    rows = remember(directory, ids)
    assert directory.recall(np.array([5, 9, 7, 11])) is None
    rows = remember(directory, ids)
    np.testing.assert_array_equal(directory.recall(ids.copy()), rows)
    assert directory.recall(ids) is None
    assert directory.recall(ids[:0]) is None
    remember(directory, ids)
    assert directory.num_bytes == directory_of(np.arange(100)).num_bytes


def test_ids_may_be_overwritten_by_who_asked():
    directory = directory_of(np.arange(100))
    ids = np.array([5, 7, 9])
    remember(directory, ids)
    ids[1] = 8
    assert directory.recall(ids) is None


def test_rows_that_are_taken_away_are_remembered_no_more():
    directory = directory_of(np.arange(100))
    ids = np.array([5, 7, 9])
    remember(directory, ids)
    directory.remove(np.array([7]))
    directory.reserve(1)
    directory.add(np.array([1000]))
    assert directory.recall(ids) is None
    assert directory.find(ids)[1] == 1


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(row_directory, "MOST_REMEMBERED", 10)
    directory = directory_of(np.arange(100))
    for first in (0, 4, 8):
        remember(directory, np.arange(first, first + 4))
    assert directory.recall(np.arange(4)) is None
    assert directory.recall(np.arange(4, 8)) is not None
    remember(directory, np.arange(20, 31))
    assert directory.recall(np.arange(20, 31)) is None
    assert directory.recall(np.arange(8, 12)) is not None


@pytest.mark.parametrize("seed", range(20))
def test_recalled_rows_are_those_that_are_found_whatever_happened_between(seed):
    random = np.random.default_rng(seed)
    directory = directory_of(np.arange(50))
    lookups: list[np.ndarray] = []
    num_recalled = 0
    for _ in range(300):
        kind = random.choice(["look up", "update", "remove", "add"], p=[0.5, 0.4, 0.05, 0.05])
        ids = random.permutation(60)[: random.integers(1, 30)]
        rows, num_missing = directory.find(ids)
        if kind == "look up" and not num_missing:
            directory.remember(ids, rows)
            lookups.append(ids)
        elif kind == "update" and lookups:
            ids = lookups.pop(int(random.integers(len(lookups))))
            recalled = directory.recall(ids)
            if recalled is not None:
                num_recalled += 1
                np.testing.assert_array_equal(recalled, directory.find(ids)[0])
        elif kind == "remove":
            directory.remove(rows[rows >= 0][:2])
        elif kind == "add":
            directory.reserve(len(ids))
            directory.add(np.unique(ids[rows < 0]))
    assert num_recalled
