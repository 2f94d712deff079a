"""Class weights: how much the records of each class count in a training's loss."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from elasticdl.errors import UsageError


def parse_class_weight(value: Any, origin: str) -> dict[int, float]:
    """Return weights by class, of a dict or of its text.

    Args:
      value: such as ``{0: 1.0, 1: 3.0}``.
      origin: where it was given, for messages.

    Raises:
      UsageError: it is no such dict.
    """
    parsed = value
    if isinstance(value, str):
        try:
            parsed = ast.literal_eval(value)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            parsed = None
    if isinstance(parsed, Mapping) and parsed and all(map(_is_right, parsed.items())):
        return {int(each): float(weight) for each, weight in parsed.items()}
    raise UsageError(
        f"{origin} '{value}': not a dict of weights ≥ 0 by class; give classes as whole numbers "
        "≥ 0, for example {0: 1.0, 1: 3.0}"
    )


def _is_right(item: tuple[Any, Any]) -> bool:
    number, weight = item
    return (
        isinstance(number, int)
        and not isinstance(number, bool)
        and number >= 0
        and isinstance(weight, int | float)
        and not isinstance(weight, bool)
        and math.isfinite(weight)
        and weight >= 0
    )


def weigh_classes(class_weight: Mapping[int, float], labels: Any, sample_weights: Any) -> Any:
    """Return sample weights ``[n]``: of a record's class, times those the data has.

    Labels are class numbers, or one-hot along a last dimension longer than 1, as `model.fit` takes
    them. A class without a weight has weight 1.

    Raises:
      UsageError: the labels are not one tensor.
    """
    import tensorflow as tf

    if not tf.is_tensor(labels):
        raise UsageError(
            "class_weight: the model has several labels; let the dataset yield "
            "(features, labels, sample_weights) instead"
        )
    if labels.shape.rank > 1 and labels.shape[-1] != 1:
        classes = tf.argmax(labels, axis=-1)
    else:
        classes = labels if labels.shape.rank == 1 else tf.squeeze(labels, -1)
        if classes.dtype.is_floating:
            classes = tf.round(classes)
        classes = tf.cast(classes, tf.int64)
    weights = tf.ones(tf.shape(classes), tf.float32)
    for number, weight in class_weight.items():
        weights = tf.where(classes == number, tf.constant(weight, tf.float32), weights)
    if sample_weights is None:
        return weights
    if sample_weights.shape.rank == weights.shape.rank + 1:
        weights = tf.expand_dims(weights, -1)
    return tf.cast(sample_weights, tf.float32) * weights
