"""Columns that are ready, or in Examples that have to be parsed, as features and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from elasticdl import Mode

LABEL = "label"

Columns = Mapping[str, tuple[tuple[int, ...], tf.DType]]
"""Shape of a record's values, and their type, by name."""


def read(dataset: tf.data.Dataset, mode: Mode, columns: Columns) -> tf.data.Dataset:
    """Return features and labels of minibatches of ready columns, or of records of one Example."""
    description = {
        name: tf.io.FixedLenFeature(shape, dtype) for name, (shape, dtype) in columns.items()
    }

    def parsed(record: tf.Tensor) -> dict[str, tf.Tensor]:
        return tf.io.parse_single_example(record, description)

    def reshaped(minibatch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(values, [-1, *columns[name][0]]) if columns[name][0] else values
            for name, values in minibatch.items()
        }

    def split(features: dict[str, tf.Tensor]) -> Any:
        label = features.pop(LABEL)
        return features if mode == Mode.PREDICTION else (features, label)

    get = reshaped if isinstance(dataset.element_spec, dict) else parsed
    return dataset.map(lambda element: split(get(element)))
