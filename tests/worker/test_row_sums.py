"""Gradients summed by row outside of the step are those that TensorFlow sums."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.worker.row_sums import RowGradients, sum_by_row

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize(("count", "num_rows"), [(0, 0), (0, 2), (1, 1), (500, 70)])
def test_each_row_has_the_sum_of_its_gradients(dim, count, num_rows):
    values = RNG.normal(size=(count, dim)).astype(np.float32)
    rows = RNG.integers(0, max(1, num_rows), count).astype(np.int32)
    sums, is_finite = sum_by_row(values, rows, num_rows)
    expected = tf.math.unsorted_segment_sum(values, rows, num_rows)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-6)
    assert is_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sum_that_is_not_finite_is_noticed(value):
    values = np.ones((9, 4), np.float32)
    values[8, 3] = value
    sums, is_finite = sum_by_row(values, np.arange(9, dtype=np.int32) // 2, 5)
    assert not is_finite
    assert np.isfinite(sums).sum() == 19


def test_a_sum_that_overflows_is_noticed():
    values = np.full((2, 1), 3e38, np.float32)
    assert not sum_by_row(values, np.zeros(2, np.int32), 1)[1]


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_is_not_there_is_an_error(row):
    with pytest.raises(ValueError, match="there are 2"):
        sum_by_row(np.ones((1, 1), np.float32), np.array([row], np.int32), 2)


def test_tables_summed_in_the_step_and_here_keep_their_order():
    slices = tf.IndexedSlices(tf.constant([[1.0], [2.0], [4.0]]), tf.constant([1, 0, 1]))
    summed = tf.constant([[7.0]])
    how, parts = RowGradients.leaving([summed, slices, summed])
    arrived, is_finite = how.arrived(parts, [1, 2, 1])
    assert [each.ravel().tolist() for each in arrived] == [[7], [2, 5], [7]]
    assert is_finite
