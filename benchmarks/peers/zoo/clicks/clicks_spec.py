"""DeepFM as a job trains it: its vectors are a table of the parameter servers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl import ElasticDLSpec, Mode
from elasticdl.layers import Embedding

from .. import prepared
from . import network
from .sizes import DIM, NUM_FIELDS, NUM_NUMERIC

COLUMNS = {
    "numeric": ((NUM_NUMERIC,), tf.float32),
    "categorical": ((NUM_FIELDS,), tf.int64),
    "label": ((1,), tf.float32),
}


class Clicks(ElasticDLSpec):
    """Predicts clicks from columns that are ready, or from Examples that have to be parsed."""

    def create_model(self) -> tf.keras.Model:
        return network.model(tf.keras, Embedding(DIM, name="vectors"))

    def create_optimizer(self) -> tf.keras.optimizers.Optimizer:
        return tf.keras.optimizers.Adagrad(network.LEARNING_RATE, network.INITIAL_ACCUMULATOR)

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
        return prepared.read(dataset, mode, COLUMNS)
