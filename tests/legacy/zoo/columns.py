"""Every kind of feature column, in the layer that tf_keras has for them."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from elasticdl import ElasticDLSpec, Mode

fc = tf.feature_column
age = fc.numeric_column("age")
bucket = fc.bucketized_column(age, [0.3, 0.6])
job = fc.categorical_column_with_vocabulary_list("job", ["a", "b", "c"])
city = fc.categorical_column_with_hash_bucket("city", 20)
cross = fc.crossed_column([bucket, "city"], 30)
COLUMNS = [
    age,
    bucket,
    fc.indicator_column(job),
    fc.embedding_column(city, 3),
    fc.indicator_column(cross),
    fc.embedding_column(job, 2, combiner="sqrtn"),
]
PARSED = {
    "age": tf.io.FixedLenFeature([1], tf.float32),
    "job": tf.io.FixedLenFeature([1], tf.string),
    "city": tf.io.FixedLenFeature([1], tf.string),
    "y": tf.io.FixedLenFeature([], tf.float32),
}


class Spec(ElasticDLSpec):
    def create_model(self):
        inputs = {
            "age": keras.Input([1], name="age"),
            "job": keras.Input([1], dtype="string", name="job"),
            "city": keras.Input([1], dtype="string", name="city"),
        }
        columns = keras.layers.DenseFeatures(COLUMNS)(inputs)
        return keras.Model(inputs, keras.layers.Dense(1)(columns))

    def create_optimizer(self):
        return keras.optimizers.Adagrad(lr=0.1)

    def create_loss(self, outputs, labels):
        return tf.reduce_mean(tf.square(outputs[:, 0] - labels))

    def create_dataset(self, dataset, mode):
        def parse(r):
            example = tf.io.parse_single_example(r, PARSED)
            y = example.pop("y")
            return example if mode == Mode.PREDICTION else (example, y)

        return dataset.map(parse)
