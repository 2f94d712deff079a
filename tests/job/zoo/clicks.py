"""A small model for tests of whole jobs: hashed ids and a number in, a click's logit out."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding


class Clicks(ElasticDLSpec):
    """`drop_above` filters records out, `nan_at` poisons one, `fail_at` makes parsing raise.

    `rules` say which rows live.
    """

    def __init__(self, context=None, dim=4, drop_above=10**9, nan_at=-1, fail_at=-1, rules=None):
        super().__init__(context)
        self.rules = rules or {}
        self.dim, self.drop_above, self.nan_at, self.fail_at = dim, drop_above, nan_at, fail_at

    def create_model(self):
        ids = keras.Input([3], dtype="int64", name="ids")
        number = keras.Input([1], name="number")
        rows = keras.layers.Flatten()(Embedding(self.dim, name="rows", **self.rules)(ids))
        hidden = keras.layers.Dense(8, activation="relu")(
            keras.layers.Concatenate()([rows, number])
        )
        return keras.Model({"ids": ids, "number": number}, keras.layers.Dense(1)(hidden))

    def create_optimizer(self, lr=0.05):
        return keras.optimizers.Adagrad(lr)

    def create_loss(self, outputs, labels):
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(logits=outputs[:, 0], labels=labels)
        )

    def create_metrics(self, mode, outputs, labels, predictions):
        auc = keras.metrics.AUC(from_logits=True, num_thresholds=50)
        auc.update_state(labels, outputs[:, 0])
        right = tf.equal(outputs[:, 0] > 0, labels > 0.5)
        return {"auc": auc, "accuracy": tf.reduce_mean(tf.cast(right, tf.float32))}

    def create_dataset(self, dataset, mode):
        def parse(record):
            example = tf.io.parse_single_example(
                record,
                {
                    "row": tf.io.FixedLenFeature([], tf.int64),
                    "ids": tf.io.FixedLenFeature([3], tf.int64),
                    "number": tf.io.FixedLenFeature([1], tf.float32),
                    "label": tf.io.FixedLenFeature([], tf.int64),
                },
            )
            row = example["row"]
            bad = tf.debugging.assert_none_equal(
                row, tf.constant(self.fail_at, tf.int64), message="a bad record"
            )
            with tf.control_dependencies([bad]):
                number = tf.where(row == self.nan_at, tf.constant(float("nan")), example["number"])
            features = {"ids": example["ids"], "number": number}
            if mode is Mode.PREDICTION:
                return features
            return features, tf.cast(example["label"], tf.float32)

        def keep(record):
            row = tf.io.parse_single_example(record, {"row": tf.io.FixedLenFeature([], tf.int64)})
            return row["row"] <= self.drop_above

        return dataset.filter(keep).map(parse) if self.drop_above < 10**9 else dataset.map(parse)


class Doubled(Clicks):
    """Makes two records of each."""

    def create_dataset(self, dataset, mode):
        records = super().create_dataset(dataset, mode)
        return records.flat_map(lambda *element: tf.data.Dataset.from_tensors(element).repeat(2))


class Scheduled(Clicks):
    """AdamW with what else the parameter servers and the step do for an optimizer."""

    def create_optimizer(self):
        schedule = keras.optimizers.schedules.CosineDecay(
            0.02, decay_steps=60, alpha=0.1, warmup_target=0.05, warmup_steps=10
        )
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer
