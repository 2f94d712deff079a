"""A module whose losses and metrics are what Keras takes; a model of two outputs beside it."""

import tensorflow as tf
from inputs import parsed

loss = "sparse_categorical_crossentropy"
optimizer = tf.keras.optimizers.SGD(learning_rate=0.1)


def custom_model():
    start = tf.keras.initializers.RandomUniform(seed=3)
    inputs = tf.keras.Input((4,), name="x")
    x = tf.keras.layers.Dense(
        5, kernel_initializer=start, kernel_regularizer="l2", activity_regularizer="l2"
    )(inputs)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3, "softmax", kernel_initializer=start)(x))


def feed(dataset, mode, metadata):
    return parsed(dataset).map(lambda each: ({"x": each["x"]}, each["label"]))


def weighted_feed(dataset, mode):
    return parsed(dataset).map(lambda each: ({"x": each["x"]}, each["label"], each["weight"]))


def eval_metrics_fn():
    return ["accuracy"]


def compiled_model():
    model = custom_model()
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


def with_weights(labels, predictions, sample_weights):
    each = tf.keras.losses.sparse_categorical_crossentropy(labels, predictions)
    return tf.reduce_mean(each if sample_weights is None else each * sample_weights)


def per_record(labels, predictions):
    return tf.keras.losses.sparse_categorical_crossentropy(labels, predictions)


def scalar(labels, predictions):
    return tf.reduce_mean(per_record(labels, predictions))
