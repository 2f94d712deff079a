"""Clipping of a minibatch's gradients in the worker's traced step, as Keras does it."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from elasticdl.ps.optimizers import OptimizerConfig


def has_clipping(config: OptimizerConfig) -> bool:
    """Whether `clip_gradients` changes anything."""
    return bool(config.clipnorm or config.clipvalue or config.global_clipnorm)


def clip_gradients(gradients: Sequence[tf.Tensor], config: OptimizerConfig) -> list[tf.Tensor]:
    """Return the gradients cut by the optimizer's `clipnorm`, `clipvalue` or `global_clipnorm`.

    Args:
      gradients: one for each variable, and one for each table: of all its rows in the minibatch,
        repeated ids summed.
      config: at most one of the three is given.
    """
    if config.clipnorm:
        return [tf.clip_by_norm(each, config.clipnorm) for each in gradients]
    if config.clipvalue:
        limit = config.clipvalue
        return [tf.clip_by_value(each, -limit, limit) for each in gradients]
    if config.global_clipnorm and gradients:
        clipped, _ = tf.clip_by_global_norm(list(gradients), config.global_clipnorm)
        return list(clipped)
    return list(gradients)
