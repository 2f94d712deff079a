"""Wide & deep learning on the census: crossed categories beside a deep network.

References:
  Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

WORDS = (
    "type_employer",
    "education",
    "marital",
    "occupation",
    "relationship",
    "race",
    "sex",
    "country",
)
# What brings a number to about one: (value - mean) / deviation.
NUMBERS = {"age": (38.0, 13.0), "education_num": (10.0, 2.5), "hr_per_week": (41.0, 12.0)}
# Zero for most people and up to 99,999: their logarithm counts.
SUMS = {"capital_gain": 3.0, "capital_loss": 2.0}
BUCKETS = {
    "age": [22, 26, 30, 34, 38, 42, 46, 50, 55, 60, 65],
    "hr_per_week": [20, 30, 38, 41, 46, 51, 61],
    "capital_gain": [1, 3000, 4500, 5100, 7000, 10000, 20000],
    "capital_loss": [1, 1550, 1850, 1950, 2200, 2500],
}
CROSSES = (
    ("education", "occupation"),
    ("relationship", "sex"),
    ("marital", "age_bucket"),
    ("occupation", "hr_per_week_bucket"),
)
_IDS = 2**63 - 1


class WideAndDeep(ElasticDLSpec):
    """Predicts whether a person earns more than $50,000 a year.

    The wide part is linear in every category, bucket and cross; the deep part is a network over the
    categories' vectors and the numbers. Words become ids by their hash: there is no vocabulary.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of a category's vector.
      hidden_units: widths of the deep part's layers.
      learning_rate: of Adagrad.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (64, 32),
        learning_rate: float = 0.05,
    ) -> None:
        super().__init__(context)
        self._embedding_dim = embedding_dim
        self._hidden_units = hidden_units
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        wide = tf.keras.Input((None,), dtype="int64", name="wide")
        deep = tf.keras.Input((len(WORDS) + len(BUCKETS),), dtype="int64", name="deep")
        numbers = tf.keras.Input((len(NUMBERS) + len(SUMS),), name="numbers")
        vectors = Embedding(self._embedding_dim, name="vectors")(deep)
        x = tf.keras.layers.Concatenate()([tf.keras.layers.Flatten()(vectors), numbers])
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        weights = Embedding(1, combiner="sum", embeddings_initializer="zeros", name="weights")
        return tf.keras.Model(
            {"wide": wide, "deep": deep, "numbers": numbers},
            tf.keras.layers.Add()([weights(wide), tf.keras.layers.Dense(1)(x)]),
        )

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adagrad(self._learning_rate)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, Any]:
        correct = tf.equal(predictions > 0, labels > 0.5)
        auc = tf.keras.metrics.AUC(num_thresholds=1000, from_logits=True)
        auc.update_state(labels, predictions)
        return {"accuracy": tf.reduce_mean(tf.cast(correct, tf.float32)), "auc": auc}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {name: tf.io.FixedLenFeature([], tf.string) for name in WORDS}
        for name in (*NUMBERS, *SUMS):
            description[name] = tf.io.FixedLenFeature([], tf.int64)
        if mode != Mode.PREDICTION:
            description["label"] = tf.io.FixedLenFeature([1], tf.int64)

        def parse(record: tf.Tensor) -> Any:
            example = tf.io.parse_single_example(record, description)
            features = _features(example)
            if mode == Mode.PREDICTION:
                return features
            return features, tf.cast(example["label"], tf.float32)

        return dataset.map(parse)


def _features(person: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    categories = {name: person[name] for name in WORDS}
    for name, bounds in BUCKETS.items():
        bucket = tf.searchsorted(bounds, [tf.cast(person[name], tf.int32)], side="right")[0]
        categories[f"{name}_bucket"] = tf.strings.as_string(bucket)
    deep = {name: f"{name}=" + value for name, value in categories.items()}
    crosses = [deep[first] + "&" + deep[second] for first, second in CROSSES]
    numbers = [
        (tf.cast(person[name], tf.float32) - mean) / deviation
        for name, (mean, deviation) in NUMBERS.items()
    ]
    sums = [tf.math.log1p(tf.cast(person[n], tf.float32)) / scale for n, scale in SUMS.items()]
    return {
        "wide": tf.strings.to_hash_bucket_fast([*deep.values(), *crosses], _IDS),
        "deep": tf.strings.to_hash_bucket_fast(list(deep.values()), _IDS),
        "numbers": tf.stack([*numbers, *sums]),
    }
