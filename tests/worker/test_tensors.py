"""Arrays and tensors share memory where they can, and have the same values everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.memory import MemoryPool
from elasticdl.worker.tensors import as_array, as_tensor

NUM_ROWS = 1000


def test_memory_of_a_pool_is_a_tensor_without_being_copied_and_comes_back_after_it():
    pool = MemoryPool()
    rows = pool.float32s(NUM_ROWS, 16)
    rows[:] = np.arange(16)
    address = rows.ctypes.data
    tensor = as_tensor(rows)
    del rows
    assert as_array(tensor).ctypes.data == address
    assert pool.num_unused_bytes == 0
    doubled = tf.function(lambda x: 2 * x)(tensor)
    np.testing.assert_array_equal(tensor, np.tile(np.arange(16), (NUM_ROWS, 1)))
    del tensor
    assert pool.num_unused_bytes > 0
    np.testing.assert_array_equal(doubled[0], 2 * np.arange(16))


@pytest.mark.parametrize("kind", ["unaligned", "read-only", "strided", "small", "empty", "int32"])
def test_other_arrays_have_the_same_values_as_tensors(kind):
    values = np.arange(16 * NUM_ROWS, dtype=np.float32)
    array = {
        "unaligned": np.frombuffer(bytearray(values.nbytes + 4), np.float32)[1:],
        "read-only": np.frombuffer(values.tobytes(), np.float32),
        "strided": values[::2],
        "small": values[:3],
        "empty": values[:0],
        "int32": values.astype(np.int32),
    }[kind]
    tensor = as_tensor(array)
    assert tensor.dtype == tf.as_dtype(array.dtype)
    np.testing.assert_array_equal(as_array(tensor), array)
