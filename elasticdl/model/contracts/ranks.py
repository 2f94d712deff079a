"""The ranks in which Keras's losses and metrics get labels and outputs."""

from __future__ import annotations

from typing import Any


def as_columns(labels: Any, outputs: Any) -> tuple[Any, Any]:
    """Return labels and outputs of rank 1 as ``[n, 1]``: Keras takes a vector for one record."""
    import tensorflow as tf

    if _rank(labels) == 1 and _rank(outputs) == 1:
        return tf.expand_dims(labels, -1), tf.expand_dims(outputs, -1)
    return labels, outputs


def same_rank(labels: Any, outputs: Any) -> tuple[Any, Any]:
    """Return labels and outputs in one rank where a last dimension of 1 is all that differs.

    As Keras gives them to the functions among its losses and metrics: ``[n]`` and ``[n, 1]`` would
    make a matrix.
    """
    import tensorflow as tf

    if not isinstance(labels, tf.Tensor) or not isinstance(outputs, tf.Tensor):
        return labels, outputs
    ranks = (labels.shape.rank, outputs.shape.rank)
    if ranks == (1, 2) and outputs.shape[-1] == 1:
        return tf.expand_dims(labels, -1), outputs
    if ranks == (2, 1) and labels.shape[-1] == 1:
        return labels, tf.expand_dims(outputs, -1)
    if None not in ranks and min(ranks) > 1 and abs(ranks[0] - ranks[1]) == 1:
        if ranks[0] > ranks[1] and labels.shape[-1] == 1:
            return tf.squeeze(labels, -1), outputs
        if ranks[1] > ranks[0] and outputs.shape[-1] == 1:
            return labels, tf.squeeze(outputs, -1)
    return labels, outputs


def as_fit_gives(labels: Any, outputs: Any) -> tuple[Any, Any]:
    """Return labels and outputs as `fit` gives them to objects of Keras's losses and metrics.

    tf_keras makes ``[n, 1]`` of labels ``[n]`` beside outputs ``[n, 1]``; Keras 3 does not.
    """
    from elasticdl.model.keras_api import IS_LEGACY

    return same_rank(labels, outputs) if IS_LEGACY else (labels, outputs)


def kind_of_labels(outputs: Any, labels: Any) -> str:
    """Return whose accuracy or crossentropy suits: binary, categorical or sparse_categorical.

    As `keras.Model.compile` chooses it, and binary for outputs ``[n]``.
    """
    if outputs.shape.rank < 2 or outputs.shape[-1] == 1:
        return "binary"
    fewer = labels.shape.rank < outputs.shape.rank
    return "sparse_categorical" if fewer or labels.shape[-1] == 1 else "categorical"


def _rank(value: Any) -> int | None:
    return getattr(getattr(value, "shape", None), "rank", None)
