"""Embedding columns of several kinds, in feature layers two of which share a column."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from elasticdl import ElasticDLSpec, Mode

fc = tf.feature_column
PARSED = {
    "words": tf.io.VarLenFeature(tf.string),
    "ids": tf.io.VarLenFeature(tf.int64),
    "weights": tf.io.VarLenFeature(tf.float32),
    "y": tf.io.FixedLenFeature([], tf.float32),
}


def values(shape, dtype=None, **_):
    """Return what an initializer without a form by id draws, equal wherever it is called."""
    return tf.constant(np.random.default_rng(shape[0]).normal(size=shape), tf.float32)


class Spec(ElasticDLSpec):
    def __init__(self, context=None, optimizer="sgd", kind="given"):
        super().__init__(context)
        self.optimizer = optimizer
        self.initializer = None if kind == "default" else values
        self.trainable = kind != "frozen"

    def create_model(self):
        hashed = fc.categorical_column_with_hash_bucket("words", 40)
        ids = fc.categorical_column_with_identity("ids", 30)
        weighted = fc.weighted_categorical_column(ids, "weights")
        known = fc.categorical_column_with_vocabulary_list("words", ["w1", "w2", "w3"])
        shared = fc.embedding_column(hashed, 4, initializer=self.initializer)
        columns = [
            shared,
            fc.embedding_column(
                weighted, 3, "sqrtn", self.initializer, trainable=self.trainable, max_norm=1.5
            ),
        ]
        of_known = fc.embedding_column(known, 2, "sum", initializer=self.initializer)
        inputs = {
            "words": keras.Input([None], dtype="string", sparse=True, name="words"),
            "ids": keras.Input([None], dtype="int64", sparse=True, name="ids"),
            "weights": keras.Input([None], sparse=True, name="weights"),
        }
        words = {"words": inputs["words"]}
        vectors = [
            keras.layers.DenseFeatures(columns, name="first")(inputs),
            keras.layers.DenseFeatures([shared], name="second")(words),
            keras.layers.DenseFeatures([of_known], name="third")(words),
        ]
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        return keras.Model(inputs, dense(keras.layers.Concatenate()(vectors)))

    def create_optimizer(self):
        return {"sgd": keras.optimizers.SGD, "adagrad": keras.optimizers.Adagrad}[self.optimizer](
            0.05
        )

    def create_loss(self, outputs, labels):
        return tf.reduce_mean(tf.square(outputs[:, 0] - labels))

    def create_dataset(self, dataset, mode):
        def parse(record):
            example = tf.io.parse_single_example(record, PARSED)
            y = example.pop("y")
            return example if mode == Mode.PREDICTION else (example, y)

        return dataset.map(parse)
