"""Two inputs, two outputs, a loss and metrics for each."""

import tensorflow as tf
from inputs import parsed

loss = {"kind": "sparse_categorical_crossentropy", "value": tf.keras.losses.MeanSquaredError()}
loss_weights = {"kind": 1.0, "value": 0.25}


def custom_model():
    start = tf.keras.initializers.RandomUniform(seed=3)
    left = tf.keras.Input((2,), name="left")
    right = tf.keras.Input((2,), name="right")
    x = tf.keras.layers.Concatenate()([left, right])
    x = tf.keras.layers.Dense(5, activation="tanh", kernel_initializer=start)(x)
    kind = tf.keras.layers.Dense(3, "softmax", name="kind", kernel_initializer=start)(x)
    value = tf.keras.layers.Dense(1, name="value", kernel_initializer=start)(x)
    return tf.keras.Model([left, right], [kind, value])


def optimizer(learning_rate):
    return tf.keras.optimizers.SGD(learning_rate)


def feed(dataset, mode, metadata):
    def split(each):
        features = {"left": each["x"][:2], "right": each["x"][2:]}
        return features, {"kind": each["label"], "value": each["y"]}

    return parsed(dataset).map(split)


def eval_metrics_fn():
    return {
        "kind": {"right": lambda labels, predictions: tf.argmax(predictions, 1) == labels},
        "value": {"error": tf.keras.metrics.MeanAbsoluteError()},
    }
