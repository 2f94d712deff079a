"""Losses, metrics and weights count as `model.fit` counts them, in every form they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from tests.model_zoos import write_zoo

FEED = """
import tensorflow as tf

keras = tf.keras


def feed(dataset, mode, _):
    return dataset.map(lambda record: (tf.zeros([2]), 1.0))


def optimizer():
    return keras.optimizers.SGD(0.1)
"""
NET = """
class Net(keras.Model):
    {}

    def call(self, x):
        return x


loss = "mse"
"""


def load(directory: Path, code: str) -> Contract:
    write_zoo(directory, {"zoo_losses.py": FEED + code})
    return load_contract(ModelSource(str(directory), "zoo_losses"), Mode.TRAINING)


@pytest.mark.parametrize(
    ("of_class", "of_module"),
    [
        ("loss_weights = None", "class_weight = {0: 0.5}"),
        ("class_weight = {0: 0.5}", ""),
        ("class_weight = {0: 0.5}", "class_weight = {0: 7.0}"),
        ("class_weight = None", "class_weight = {0: 0.5}"),
    ],
)
def test_class_weight_is_of_the_model_class_else_of_its_module(
    tmp_path: Path, of_class: str, of_module: str
) -> None:
    contract = load(tmp_path, NET.format(of_class) + of_module)
    assert contract.class_weight == {0: 0.5}
