"""A traced training step, called without what TensorFlow does around every call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_MOST_SEED = 2**63 - 1


class TracedStep:
    """A traced function of tensors and a seed.

    Called as it is, a concrete function compares every argument with what it was traced for and
    puts arguments and results together from trees, in Python: a tenth of a small model's step.

    Args:
      traced: takes flat tensors, the last one a seed, int64; returns a tuple of tensors.
    """

    def __init__(self, traced: Any) -> None:
        self._traced = traced
        self._captured: list[Any] = list(traced.captured_inputs)

    def __call__(self, tensors: Sequence[tf.Tensor], seed: int) -> Sequence[tf.Tensor]:
        """Run it.

        Args:
          tensors: of the types and shapes it was traced for.
          seed: any integer.
        """
        given = tf.constant(seed & _MOST_SEED, tf.int64)
        return self._traced._call_flat([*tensors, given], self._captured)
