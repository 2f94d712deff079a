"""One vector out of the rows of several ids: sum, mean and sqrtn."""

from __future__ import annotations

import tensorflow as tf

COMBINERS = ("sum", "mean", "sqrtn")


def combine_axis(rows: tf.Tensor, combiner: str) -> tf.Tensor:
    """Combine ``[..., n, dim]`` to ``[..., dim]``.

    sum: sum_i row_i;  mean: sum / n;  sqrtn: sum / sqrt(n)
    """
    if combiner == "mean":
        return tf.math.divide_no_nan(
            tf.reduce_sum(rows, axis=-2), tf.cast(tf.shape(rows)[-2], rows.dtype)
        )
    sums = tf.reduce_sum(rows, axis=-2)
    if combiner == "sum":
        return sums
    return tf.math.divide_no_nan(sums, tf.sqrt(tf.cast(tf.shape(rows)[-2], rows.dtype)))


def combine_segments(
    rows: tf.Tensor, segment_of_row: tf.Tensor, num_segments: tf.Tensor, combiner: str
) -> tf.Tensor:
    """Combine the rows of each segment; a segment without rows gives zeros.

    Args:
      rows: float ``[n, dim]``.
      segment_of_row: integer ``[n]``, in any order.
      num_segments: integer scalar.
      combiner: one of `COMBINERS`.

    Returns:
      float ``[num_segments, dim]``.
    """
    sums = tf.math.unsorted_segment_sum(rows, segment_of_row, num_segments)
    if combiner == "sum":
        return sums
    ones = tf.ones_like(segment_of_row, dtype=rows.dtype)
    counts = tf.math.unsorted_segment_sum(ones, segment_of_row, num_segments)
    divisor = counts if combiner == "mean" else tf.sqrt(counts)
    return tf.math.divide_no_nan(sums, divisor[:, tf.newaxis])
