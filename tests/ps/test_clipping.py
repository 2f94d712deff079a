"""Clipping spread over partitions: the numbers of one Keras optimizer that sees everything."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf

from elasticdl.ps.averaging import Gradients
from elasticdl.ps.clipping import clip, sums_of_squares
from elasticdl.ps.dense_variables import plan_slices
from elasticdl.ps.optimizers import OptimizerConfig

SIZES = {"kernel": 700, "bias": 7, "moving_mean": 7}
NUM_PARTITIONS = 3


def parts() -> list[list]:
    """Return the slices of each partition: the kernel lies on all of them."""
    variables = [(name, size, name != "moving_mean") for name, size in SIZES.items()]
    slices = plan_slices(variables, 8, max_slice_bytes=400)
    return [[one for one in slices if one.group % NUM_PARTITIONS == p] for p in range(3)]


def take(layout: list, of: dict[str, np.ndarray]) -> np.ndarray:
    pieces = [of[one.variable][one.offset : one.offset + one.length] for one in layout]
    return np.concatenate(pieces)


def keras_clipped(gradients: list[np.ndarray], **clip: float) -> list[np.ndarray]:
    """Return what a Keras SGD with rate 1 takes from variables of zeros."""
    variables = [keras.Variable(np.zeros_like(one)) for one in gradients]
    keras.optimizers.SGD(1.0, **clip).apply([tf.constant(one) for one in gradients], variables)
    return [-variable.numpy() for variable in variables]


NAMES = ["kernel", "bias"]


@pytest.mark.parametrize(
    "option", [{"clipnorm": 0.5}, {"clipnorm": 1e3}, {"global_clipnorm": 2.0}, {"clipvalue": 0.3}]
)
def test_the_parts_clipped_by_added_norms_are_keras_clipping_of_the_whole(
    option: dict[str, float],
) -> None:
    rng = np.random.default_rng(4)
    dense = {name: rng.normal(size=size).astype(np.float32) for name, size in SIZES.items()}
    rows = rng.normal(size=(30, 4)).astype(np.float32)  # ten on each partition
    config = OptimizerConfig("sgd", **option)
    *expected, expected_rows = keras_clipped([*(dense[name] for name in NAMES), rows], **option)
    wanted = dict(zip(NAMES, expected, strict=True)) | {"moving_mean": dense["moving_mean"]}

    layouts = parts()
    held = [
        Gradients(((np.arange(10), rows[index::3].copy()),), take(layout, dense))
        for index, layout in enumerate(layouts)
    ]
    sums = [
        sums_of_squares(config, layout, NAMES, 1, gradients)
        for layout, gradients in zip(layouts, held, strict=True)
    ]
    totals = None if config.clipvalue else sum(one for one in sums if one is not None)
    for index, (layout, gradients) in enumerate(zip(layouts, held, strict=True)):
        clipped = clip(config, layout, NAMES, gradients, totals)
        np.testing.assert_allclose(clipped.dense, take(layout, wanted), rtol=1e-6)
        np.testing.assert_allclose(clipped.tables[0][1], expected_rows[index::3], rtol=1e-6)
        np.testing.assert_array_equal(
            gradients.dense, take(layout, dense), err_msg="those given are kept"
        )


def test_sums_are_asked_for_where_a_norm_is_clipped_and_only_there() -> None:
    (layout, *_) = parts()
    nothing = Gradients(((np.zeros(0, np.int64), np.zeros((0, 4), np.float32)),), np.zeros(0))
    for option in ({}, {"clipvalue": 1.0}):
        assert sums_of_squares(OptimizerConfig("sgd", **option), layout, NAMES, 1, None) is None
    assert clip(OptimizerConfig("sgd"), layout, NAMES, nothing, None) is nothing
    sums = sums_of_squares(OptimizerConfig("sgd", clipnorm=1.0), layout, NAMES, 1, None)
    assert sums is not None
    assert sums.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("option", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}])
def test_gradients_of_zero_stay_zero(option: dict[str, float]) -> None:
    (layout, *_) = parts()
    size = sum(one.length for one in layout)
    gradients = Gradients(((np.arange(2), np.zeros((2, 4), np.float32)),), np.zeros(size, "f4"))
    config = OptimizerConfig("sgd", **option)
    clipped = clip(config, layout, NAMES, gradients, np.zeros(3))
    assert not clipped.dense.any()
    assert not clipped.tables[0][1].any()
