"""Models of the model zoo, for data whose columns are as the models take them."""

from __future__ import annotations

import tensorflow as tf

from elasticdl import Mode
from model_zoo.census.wide_and_deep import BUCKETS, CROSSES, NUMBERS, SUMS, WORDS, WideAndDeep
from model_zoo.cifar10.resnet import SIZE, ResNet
from model_zoo.mnist.images import NUM_PIXELS
from model_zoo.mnist.mnist_spec import MnistElasticDLSpec

from . import prepared

_NUM_CATEGORIES = len(WORDS) + len(BUCKETS)
CENSUS = {
    "wide": ((_NUM_CATEGORIES + len(CROSSES),), tf.int64),
    "deep": ((_NUM_CATEGORIES,), tf.int64),
    "numbers": ((len(NUMBERS) + len(SUMS),), tf.float32),
    "label": ((1,), tf.float32),
}
DIGITS = {"image": ((NUM_PIXELS,), tf.float32), "label": ((), tf.int64)}
SHAPES = {"image": ((SIZE, SIZE, 3), tf.float32), "label": ((), tf.int64)}


class Census(WideAndDeep):
    """Wide & deep on the census."""

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return prepared.read(dataset, mode, CENSUS)


class Digits(MnistElasticDLSpec):
    """A convolutional network for handwritten digits."""

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return prepared.read(dataset, mode, DIGITS)


class Shapes(ResNet):
    """ResNet-20 for drawn images."""

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return prepared.read(dataset, mode, SHAPES)
