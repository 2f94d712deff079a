"""DeepFM as a job trains it: its vectors are a table of the parameter servers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

from . import network
from .sizes import DIM


class Clicks(ElasticDLSpec):
    """Predicts clicks from columns that are ready, or from Examples that have to be parsed."""

    def create_model(self) -> tf.keras.Model:
        return network.model(tf.keras, Embedding(DIM, name="vectors"))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adagrad(network.LEARNING_RATE)

    def create_loss(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode, outputs: tf.Tensor, labels: tf.Tensor, predictions: tf.Tensor
    ) -> dict[str, Any]:
        auc = tf.keras.metrics.AUC(num_thresholds=1000, from_logits=True)
        auc.update_state(labels, predictions)
        return {"auc": auc}

    def create_dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        is_ready = isinstance(dataset.element_spec, dict)

        def read(record: Any) -> Any:
            columns = (
                dict(record)
                if is_ready
                else tf.io.parse_single_example(record, network.description())
            )
            label = columns.pop("label")
            return columns if mode == Mode.PREDICTION else (columns, label)

        return dataset.map(read)
