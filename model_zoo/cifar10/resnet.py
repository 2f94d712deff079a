"""ResNet for images of 32 x 32, with batch normalization.

References:
  He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode

SIZE = 32
NUM_CLASSES = 10
_PADDING = 4


class ResNet(ElasticDLSpec):
    """Tells ten kinds of images apart.

    Of learning rates, 0.01 was the best for async jobs on 200 drawn images held out of 2,000 to
    train on: accuracy 0.83, against 0.58 with 0.003 and 0.11 with 0.03. Without stale gradients,
    0.03 is better: ``model.fit`` got 0.92, against 0.85 with 0.01.

    Args:
      context: about this process; see `ElasticDLSpec`.
      depth: layers with weights, 6n + 2: 20 in the paper's smallest.
      width: filters of the first third; twice and four times as many follow.
      augment: shift images by up to 4 pixels and mirror half of them, in training.
      learning_rate: of SGD with momentum.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        depth: int = 20,
        width: int = 16,
        augment: bool = True,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__(context)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth {depth}: give 8, 14, 20, 26, …")
        self._blocks = (depth - 2) // 6
        self._width = width
        self._augment = augment
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        image = tf.keras.Input((SIZE, SIZE, 3), name="image")
        x = _normalized(_convolution(image, self._width))
        x = tf.keras.layers.ReLU()(x)
        for third, filters in enumerate((self._width, 2 * self._width, 4 * self._width)):
            for block in range(self._blocks):
                x = _block(x, filters, strides=2 if third and not block else 1)
        x = tf.keras.layers.GlobalAveragePooling2D()(x)
        return tf.keras.Model({"image": image}, tf.keras.layers.Dense(NUM_CLASSES)(x))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.SGD(self._learning_rate, momentum=0.9)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        correct = tf.equal(tf.argmax(predictions, axis=1), labels)
        return {"accuracy": tf.reduce_mean(tf.cast(correct, tf.float32))}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {"image": tf.io.FixedLenFeature([], tf.string)}
        if mode != Mode.PREDICTION:
            description["label"] = tf.io.FixedLenFeature([], tf.int64)

        def parse(record: tf.Tensor) -> Any:
            example = tf.io.parse_single_example(record, description)
            values = tf.reshape(tf.io.decode_raw(example["image"], tf.uint8), [SIZE, SIZE, 3])
            image = tf.cast(values, tf.float32) / 127.5 - 1
            if mode == Mode.TRAINING and self._augment:
                image = _shifted(tf.image.random_flip_left_right(image))
            features = {"image": image}
            return features if mode == Mode.PREDICTION else (features, example["label"])

        return dataset.map(parse)


def _shifted(image: tf.Tensor) -> tf.Tensor:
    padding = [[_PADDING, _PADDING], [_PADDING, _PADDING], [0, 0]]
    return tf.image.random_crop(tf.pad(image, padding, "REFLECT"), [SIZE, SIZE, 3])


def _convolution(x: tf.Tensor, filters: int, size: int = 3, strides: int = 1) -> tf.Tensor:
    return tf.keras.layers.Conv2D(
        filters,
        size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=tf.keras.regularizers.L2(1e-4),
    )(x)


def _normalized(x: tf.Tensor) -> tf.Tensor:
    return tf.keras.layers.BatchNormalization(momentum=0.9)(x)


def _block(x: tf.Tensor, filters: int, strides: int) -> tf.Tensor:
    """Two convolutions beside a shortcut, which is projected where the shape changes."""
    y = tf.keras.layers.ReLU()(_normalized(_convolution(x, filters, strides=strides)))
    y = _normalized(_convolution(y, filters))
    if strides != 1 or x.shape[-1] != filters:
        x = _normalized(_convolution(x, filters, size=1, strides=strides))
    return tf.keras.layers.ReLU()(tf.keras.layers.Add()([x, y]))
