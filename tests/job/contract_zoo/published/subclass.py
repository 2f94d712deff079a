"""As the old ElasticDL's and SQLFlow's zoos had it: a subclassed model, functions beside it."""

import tensorflow as tf
from elasticdl.python.common.constants import Mode


class CustomModel(tf.keras.Model):
    def __init__(self, hidden_units=[5], n_classes=3):  # noqa: B006
        super().__init__(name="custom_model")
        start = tf.keras.initializers.RandomUniform(seed=3)
        self.hidden = [
            tf.keras.layers.Dense(units, activation="tanh", kernel_initializer=start)
            for units in hidden_units
        ]
        self.last = tf.keras.layers.Dense(n_classes, activation="softmax", kernel_initializer=start)

    def call(self, inputs, training=False):
        x = inputs["x"]
        for layer in self.hidden:
            x = layer(x)
        return self.last(x)


def loss(labels, output):
    return tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, output))


def optimizer(learning_rate=0.001):
    return tf.keras.optimizers.SGD(lr=learning_rate)


def dataset_fn(dataset, mode, metadata):
    assert list(metadata.column_names) == []

    def parse(record):
        features = {"x": tf.io.FixedLenFeature([4], tf.float32)}
        if mode != Mode.PREDICTION:
            features["label"] = tf.io.FixedLenFeature([], tf.int64)
        example = tf.io.parse_single_example(record, features)
        if mode == Mode.PREDICTION:
            return example
        return example, example.pop("label")

    return dataset.map(parse)


def eval_metrics_fn():
    return {"accuracy": tf.keras.metrics.SparseCategoricalAccuracy()}
