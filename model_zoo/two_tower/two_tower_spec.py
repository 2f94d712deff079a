"""Two towers: users and items become vectors whose products say who wants what.

References:
  Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
  RecSys 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

RANK = 10  # recall is counted among so many
# Keras's 0.1 hides the gradients of a mean over hundreds of records.
_INITIAL_ACCUMULATOR = 1e-4


class TwoTowerSpec(ElasticDLSpec):
    """Learns which item a user takes; the others of the minibatch are what it did not take.

    Eight epochs, chosen on a tenth of the training data held out, where
    ``python -m benchmarks.choose two_tower --num_epochs=4 --num_epochs=8`` finds a recall at 10 of
    0.668 after 4 epochs with a noise of 0.016 over 3 seeds, as when the vectors leave their start
    near 0 is chance then, and of 0.697 after 8 with 0.010.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of an id's vector.
      hidden_units: widths of each tower's layers.
      output_dim: length of the vectors that are compared.
      learning_rate: of Adagrad.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (32,),
        output_dim: int = 16,
        learning_rate: float = 0.1,
    ) -> None:
        super().__init__(context)
        self._embedding_dim = embedding_dim
        self._hidden_units = hidden_units
        self._output_dim = output_dim
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        user = tf.keras.Input((), dtype="int64", name="user")
        items = tf.keras.Input((None,), dtype="int64", name="items")
        return tf.keras.Model(
            {"user": user, "items": items},
            {"user": self._tower(user, "user"), "items": self._tower(items, "item")},
        )

    def _tower(self, ids: tf.Tensor, name: str) -> tf.Tensor:
        x = Embedding(self._embedding_dim, embeddings_initializer="normal", name=f"{name}_ids")(ids)
        for units in self._hidden_units:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        return tf.keras.layers.Dense(self._output_dim, name=f"{name}_tower")(x)

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adagrad(
            self._learning_rate, initial_accumulator_value=_INITIAL_ACCUMULATOR
        )

    def create_loss(self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """Tell the item that was taken from those that the minibatch's other users took.

        Mean over the minibatch of the softmax cross entropy of user · item, over all the items
        of it. One that equals the one taken is no wrong answer and does not count.
        """
        taken = outputs["items"][:, 0]
        scores = tf.matmul(outputs["user"], taken, transpose_b=True)
        same = tf.equal(labels[:, None], labels[None, :])
        own = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
        scores = tf.where(same & ~own, -1e9, scores)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.range(tf.shape(labels)[0]), logits=scores
            )
        )

    def create_metrics(
        self,
        mode: Mode,
        outputs: Mapping[str, tf.Tensor],
        labels: tf.Tensor,
        predictions: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        if mode != Mode.EVALUATION:
            return {}  # there are no other items to rank
        scores = tf.einsum("bd,bid->bi", predictions["user"], predictions["items"])
        ahead = tf.reduce_sum(tf.cast(scores[:, 1:] >= scores[:, :1], tf.int32), axis=1)
        return {"recall_at_10": tf.reduce_mean(tf.cast(ahead < RANK, tf.float32))}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {
            "user": tf.io.FixedLenFeature([], tf.int64),
            "items": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
        }

        def parse(record: tf.Tensor) -> Any:
            features = tf.io.parse_single_example(record, description)
            return features if mode == Mode.PREDICTION else (features, features["items"][0])

        return dataset.map(parse)
