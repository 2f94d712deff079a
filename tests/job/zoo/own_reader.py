"""A model of functions whose data come from a reader of its own."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import keras
import tensorflow as tf

from elasticdl.data import example


class Numbers:
    """Records y = 3 x, in shards the origin names, ``first_count+…``; misbehaves on request."""

    def __init__(self, origin):
        self.directory, _, self.origin = origin.rpartition("/")
        self.fault, _, self.parts = self.origin.rpartition("-")

    def is_one_of_the_first_two(self):
        for name in ("hung-0", "hung-1"):
            with contextlib.suppress(FileExistsError):
                (Path(self.directory) / name).touch(exist_ok=False)
                return True
        return False

    def create_shards(self):
        parts = [part.split("_") for part in self.parts.split("+")]
        return {f"from{first}": (int(first), int(count)) for first, count in parts}

    def read_records(self, task):
        assert task.shard_name == task.shard.name
        assert task.start >= int(task.shard_name.removeprefix("from"))
        if self.fault == "raising" and task.end > 110:
            raise OSError("the table is gone")
        if self.fault == "hanging" and task.end > 110 and self.is_one_of_the_first_two():
            threading.Event().wait()
        for number in range(task.start, task.end - (self.fault == "short")):
            x = (number % 10) / 10
            yield "text" * (self.fault == "short") or example.encode({"x": x, "y": 3 * x})


def custom_data_reader(data_origin):
    return Numbers(data_origin)


def custom_model():
    return keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])


def loss(labels, predictions):
    return tf.reduce_mean(tf.square(labels - predictions))


def optimizer():
    return keras.optimizers.SGD(0.3)


def feed(dataset, mode, metadata):
    def parse(record):
        spec = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        if mode != "prediction":
            spec["y"] = tf.io.FixedLenFeature([1], tf.float32)
        row = tf.io.parse_single_example(record, spec)
        return (row["x"], row["y"]) if mode != "prediction" else row["x"]

    return dataset.map(parse)


def eval_metrics_fn():
    return {"mse": lambda labels, predictions: tf.reduce_mean(tf.square(labels - predictions))}
