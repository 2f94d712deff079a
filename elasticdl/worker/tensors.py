"""Arrays as TensorFlow's tensors and back, without copying where that is possible."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_ALIGNMENT = 64
"""What TensorFlow wants of memory that is not its own."""
_FEW_BYTES = 1 << 14


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Return a tensor of an array's values, in the same memory if it is aligned and large.

    Nobody may change the array from then on: tensors never change.
    """
    if (
        array.nbytes < _FEW_BYTES
        or not array.flags.c_contiguous
        or not array.flags.writeable
        or array.ctypes.data % _ALIGNMENT
    ):
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def as_array(tensor: tf.Tensor) -> np.ndarray:
    """Return a tensor's values, without copying where the tensor is in this machine's memory."""
    return tensor._numpy()
