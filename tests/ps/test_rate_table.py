"""Blocks of a learning-rate schedule."""

from __future__ import annotations

import numpy as np
import pytest

from elasticdl.ps.rate_table import MAX_BLOCKS, RateTable

BLOCK = np.arange(1000, dtype=np.float32)


def test_each_step_has_the_rate_of_its_place_in_its_block() -> None:
    table = RateTable()
    table.set(0, BLOCK)
    table.set(3, BLOCK + 3000)
    steps = np.array([0, 999, 3000, 3999])
    assert table.rates(steps).tolist() == steps.tolist()
    assert table.rates(np.full(3, 3005)).tolist() == [3005.0] * 3
    assert table.rates(np.zeros(0, np.int64)).tolist() == []


def test_the_lowest_missing_block_is_named() -> None:
    table = RateTable()
    assert table.missing(np.array([2500, 1200])) == 1
    table.set(1, BLOCK)
    assert table.missing(np.array([2500, 1200])) == 2
    assert table.missing(np.array([1999])) is None


def test_a_block_that_is_there_stays_as_it_is() -> None:
    table = RateTable()
    table.set(0, BLOCK)
    table.set(0, BLOCK + 1)
    assert table.rates(np.array([7])).tolist() == [7.0]


@pytest.mark.parametrize(
    ("block", "rates"),
    [(-1, BLOCK), (0, BLOCK[1:]), (0, np.arange(1000.0)), (0, BLOCK * np.float32(np.nan))],
)
def test_what_is_no_block_is_refused(block: int, rates: np.ndarray) -> None:
    table = RateTable()
    with pytest.raises(ValueError, match="rates"):
        table.set(block, rates)
    assert table.missing(np.zeros(1, np.int64)) == 0


def test_a_table_stays_small_for_ever() -> None:
    table = RateTable()
    for block in range(2 * MAX_BLOCKS):
        table.set(block, BLOCK)
    assert table.missing(np.array([1000 * MAX_BLOCKS])) is None
    assert table.missing(np.zeros(1, np.int64)) == 0
