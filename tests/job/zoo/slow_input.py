"""An input function that takes its time."""

from __future__ import annotations

import time

import tensorflow as tf
from clicks import Clicks

A_RECORD_S = 0.005


class SlowInput(Clicks):
    """Looks every record up somewhere slow."""

    def create_dataset(self, dataset, mode):
        def look_up(record):
            time.sleep(A_RECORD_S)
            return record

        def slow(record):
            found = tf.numpy_function(look_up, [record], tf.string, stateful=False)
            return tf.ensure_shape(found, [])

        return super().create_dataset(dataset.map(slow), mode)
