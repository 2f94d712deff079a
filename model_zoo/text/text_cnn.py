"""A convolutional network over the words of a text, which may be of any length.

References:
  Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

_IDS = 2**63 - 1
_PARSED_AT_ONCE = 64


class Windows(tf.keras.layers.Layer):
    """Looks at every ``width`` words in a row and takes the mean of what it finds.

    Ragged vectors ``[batch, None, dim]`` become ``[batch, filters]``. Beyond the ends of a text are
    zeros; windows that begin there do not count.

    Args:
      filters: how many things it looks for.
      width: words in a window.
    """

    def __init__(self, filters: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._filters = filters
        self._width = width

    def build(self, input_shape: Any) -> None:
        self._convolution = tf.keras.layers.Conv1D(self._filters, self._width, activation="relu")
        self._convolution.build((None, None, input_shape[-1]))
        self.built = True

    def call(self, vectors: tf.RaggedTensor) -> tf.Tensor:
        lengths = vectors.row_lengths()
        dense = tf.pad(vectors.to_tensor(), [[0, 0], [0, self._width - 1], [0, 0]])
        found = self._convolution(dense)
        counts = tf.cast(tf.sequence_mask(lengths, tf.shape(found)[1]), found.dtype)
        total = tf.reduce_sum(found * counts[:, :, None], axis=1)
        return total / tf.cast(tf.maximum(lengths, 1), found.dtype)[:, None]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        return (input_shape[0], self._filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self._filters, "width": self._width}


class TextCNN(ElasticDLSpec):
    """Tells whether a text is praise. Words become ids by their hash: there is no vocabulary.

    Args:
      context: about this process; see `ElasticDLSpec`.
      embedding_dim: length of a word's vector.
      filters: things that are looked for.
      width: words in a row that are looked at.
      learning_rate: of Adam.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        embedding_dim: int = 16,
        filters: int = 64,
        width: int = 4,
        learning_rate: float = 0.003,
    ) -> None:
        super().__init__(context)
        self._embedding_dim = embedding_dim
        self._filters = filters
        self._width = width
        self._learning_rate = learning_rate

    def create_model(self) -> tf.keras.Model:
        words = tf.keras.Input((None,), dtype="int64", ragged=True, name="words")
        x = Embedding(self._embedding_dim, name="vectors")(words)
        x = Windows(self._filters, self._width)(x)
        return tf.keras.Model({"words": words}, tf.keras.layers.Dense(1)(x))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adam(self._learning_rate)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        correct = tf.equal(predictions > 0, labels > 0.5)
        return {"accuracy": tf.reduce_mean(tf.cast(correct, tf.float32))}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        description = {"text": tf.io.FixedLenFeature([], tf.string)}
        if mode != Mode.PREDICTION:
            description["label"] = tf.io.FixedLenFeature([1], tf.int64)

        def parse(records: tf.Tensor) -> Any:
            examples = tf.io.parse_example(records, description)
            words = tf.strings.split(examples["text"])
            features = {"words": tf.strings.to_hash_bucket_fast(words, _IDS)}
            if mode == Mode.PREDICTION:
                return features
            return features, tf.cast(examples["label"], tf.float32)

        # Split together, several texts are one ragged tensor; taken apart, each is one ragged row.
        return dataset.batch(_PARSED_AT_ONCE).map(parse).unbatch()
