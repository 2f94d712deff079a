"""What one minibatch gives: in a training, and in an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class TrainResult:
    """What a training step computed.

    Attributes:
      loss: of the minibatch, regularization included.
      finite: whether the loss and every gradient is.
      dense_gradients: float32 ``[D]``, in the order of the variables; for state that is not
        trained (batch-normalization statistics) the change, new − old.
      row_gradients: one summed gradient per distinct row, float32 ``[u, dim]``, by table; none for
        the rows of a frozen one.
    """

    loss: float
    finite: bool
    dense_gradients: np.ndarray
    row_gradients: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class EvaluationResult:
    """What a model gave for one minibatch of an evaluation.

    Attributes:
      outputs: in inference mode.
      penalty: what the model adds to the definition's loss: its regularization and what its layers
        give to `add_loss`; float32, a scalar.
      loss: of the minibatch, all that is added in it, float32, a scalar; None unless the model's
        class computes it itself.
    """

    outputs: Any
    penalty: tf.Tensor
    loss: tf.Tensor | None
