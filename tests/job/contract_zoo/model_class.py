"""A model class that brings its input, loss and optimizer."""

import tensorflow as tf
from inputs import parsed

from elasticdl import Mode


class Classifier(tf.keras.Model):
    def __init__(self, units=5, rate=0.1):
        super().__init__()
        self.rate = rate
        start = tf.keras.initializers.RandomUniform(seed=3)
        self.hidden = tf.keras.layers.Dense(units, activation="tanh", kernel_initializer=start)
        self.last = tf.keras.layers.Dense(3, kernel_initializer=start)

    def call(self, inputs, training=False):
        return self.last(self.hidden(inputs))

    @staticmethod
    def default_input(dataset, mode):
        examples = parsed(dataset)
        if mode == Mode.PREDICTION:
            return examples.map(lambda example: example["x"])
        return examples.map(lambda example: (example["x"], example["label"]))

    def default_loss(self, labels, predictions):
        assert self.built
        return tf.keras.losses.sparse_categorical_crossentropy(
            labels, predictions, from_logits=True
        )

    def default_optimizer(self):
        return tf.keras.optimizers.SGD(self.rate)

    @classmethod
    def default_metrics(cls):
        return ["accuracy"]
