"""A minibatch put together by hand is what TensorFlow puts together."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.worker.packing import packer

DENSE = tf.constant([[1.0, 2.0]])
SPARSE = tf.sparse.from_dense([[0, 3], [4, 0]])
RAGGED = tf.ragged.constant([[1, 2], [], [3]])


@pytest.mark.parametrize(
    "nest",
    [
        DENSE,
        RAGGED,
        (),
        (DENSE, (), [DENSE + 1]),
        {"b": DENSE, "a": SPARSE, "c": {"z": RAGGED, "y": (DENSE * 2, DENSE * 3)}},
        (OrderedDict([("b", DENSE), ("a", DENSE + 1)]), SPARSE),
    ],
    ids=["dense", "ragged", "empty", "tuples", "dicts", "another kind of dict"],
)
def test_a_nest_comes_back_as_tensorflow_would_pack_it(nest):
    specs = tf.nest.map_structure(tf.type_spec_from_value, nest)
    parts = tf.nest.flatten(nest, expand_composites=True)
    packed = packer(specs)(parts)
    tf.nest.assert_same_structure(nest, packed, expand_composites=True)
    if isinstance(nest, dict):
        assert list(packed) == list(nest)
    for before, after in zip(parts, tf.nest.flatten(packed, expand_composites=True), strict=True):
        np.testing.assert_array_equal(before, after)
