"""Definitions as people wrote them for TensorFlow 2's own Keras, before Keras 3."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

COLUMNS = {
    "ids": tf.io.FixedLenFeature([3], tf.int64),
    "number": tf.io.FixedLenFeature([1], tf.float32),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


class Functional(ElasticDLSpec):
    """Batch normalization, a plain Keras embedding, an optimizer with `lr`."""

    def create_model(self):
        ids = keras.Input([3], dtype="int64", name="ids")
        number = keras.Input([1], name="number")
        vectors = keras.layers.Embedding(50, 4)(ids % 50)
        joined = keras.layers.Concatenate()([keras.layers.Flatten()(vectors), number])
        hidden = keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2")(joined)
        hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
        return keras.Model(inputs=[ids, number], outputs=keras.layers.Dense(1)(hidden))

    def create_optimizer(self):
        return tf.keras.optimizers.SGD(lr=0.2, momentum=0.5)

    def create_loss(self, outputs, labels):
        return keras.losses.BinaryCrossentropy(from_logits=True)(labels[:, None], outputs)

    def create_metrics(self, mode, outputs, labels, predictions):
        return {"auc": keras.metrics.AUC(from_logits=True, num_thresholds=50)}

    def create_dataset(self, dataset, mode):
        def parse(record):
            example = tf.io.parse_single_example(record, COLUMNS)
            label = tf.cast(example.pop("label"), tf.float32)
            return example if mode == Mode.PREDICTION else (example, label)

        return dataset.map(parse)


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.rows = Embedding(4, combiner="sum", name="rows")
        self.drop = keras.layers.Dropout(0.1)
        self.out = keras.layers.Dense(1)

    def call(self, features, training=False):
        joined = tf.concat([self.rows(features["ids"]), features["number"]], axis=1)
        return self.out(self.drop(joined, training=training))


class Subclassed(Functional):
    """A model class, rows on the parameter servers, an optimizer of the legacy kind."""

    def create_model(self):
        return Net()

    def create_optimizer(self):
        return tf.keras.optimizers.legacy.Adagrad(0.1)
