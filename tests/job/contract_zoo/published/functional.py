"""As the old ElasticDL's zoo had it: functions around a functional model."""

import tensorflow as tf
from elasticdl.python.common.constants import Mode


def custom_model(units=3):
    inputs = tf.keras.Input(shape=(4,), name="x")
    x = tf.keras.layers.Dense(5, activation="tanh", kernel_initializer=start())(inputs)
    outputs = tf.keras.layers.Dense(units, kernel_initializer=start())(x)
    return tf.keras.Model(inputs=inputs, outputs=outputs, name="functional")


def start():
    return tf.keras.initializers.RandomUniform(seed=3)


def loss(labels, predictions):
    labels = tf.reshape(labels, [-1])
    return tf.reduce_mean(
        input_tensor=tf.nn.sparse_softmax_cross_entropy_with_logits(
            logits=predictions, labels=labels
        )
    )


def optimizer(lr=0.1):
    return tf.optimizers.SGD(lr)


def feed(dataset, mode, _):
    def _parse_data(record):
        if mode == Mode.PREDICTION:
            feature_description = {"x": tf.io.FixedLenFeature([4], tf.float32)}
        else:
            feature_description = {
                "x": tf.io.FixedLenFeature([4], tf.float32),
                "label": tf.io.FixedLenFeature([], tf.int64),
            }
        r = tf.io.parse_single_example(record, feature_description)
        features = {"x": r["x"]}
        if mode == Mode.PREDICTION:
            return features
        return features, tf.cast(r["label"], tf.int32)

    return dataset.map(_parse_data)


def eval_metrics_fn():
    return {
        "accuracy": lambda labels, predictions: tf.equal(
            tf.argmax(predictions, 1, output_type=tf.int32),
            tf.cast(tf.reshape(labels, [-1]), tf.int32),
        )
    }


class PredictionOutputsProcessor:
    def __init__(self):
        self.path = tf.compat.as_str(__import__("os").environ["PROCESSED"])

    def process(self, predictions, worker_id):
        with open(self.path, "a") as file:
            for row in predictions.numpy().tolist():
                file.write(f"{worker_id} {len(row)}\n")
