"""Reading the records of these tests."""

import tensorflow as tf


def parsed(dataset):
    return dataset.map(
        lambda record: tf.io.parse_single_example(
            record,
            {
                "x": tf.io.FixedLenFeature([4], tf.float32),
                "label": tf.io.FixedLenFeature([], tf.int64),
                "y": tf.io.FixedLenFeature([], tf.float32),
                "weight": tf.io.FixedLenFeature([], tf.float32),
            },
        )
    )
