"""Train a workload with Keras's own ``model.fit`` in this process; print one line of JSON.

What the other benchmarks compare with. Embeddings on parameter servers become Keras's own here,
with ids hashed into a fixed number of rows, as one does without parameter servers.
"""

from __future__ import annotations

import argparse
import glob
import json
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from benchmarks.workloads import MODEL_ZOO, WORKLOADS, Workload
from elasticdl.data import recordio
from elasticdl.layers import Embedding
from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.metric_states import MetricStates, merge
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource

HASH_BUCKETS = 1 << 17
SHUFFLE_RECORDS = 16384


class HashedEmbedding(keras.layers.Layer):
    """Stands in for an `Embedding`: a Keras embedding over ids modulo ``HASH_BUCKETS``."""

    def __init__(self, replaced: Embedding) -> None:
        super().__init__(name=replaced.name)
        if replaced.combiner not in (None, "sum"):
            raise NotImplementedError(f"combiner '{replaced.combiner}'")
        self._replaced = replaced
        self._rows = keras.layers.Embedding(
            HASH_BUCKETS,
            replaced.output_dim,
            embeddings_initializer=replaced.embeddings_initializer,
        )

    def build(self, input_shape: Any) -> None:
        self._rows.build(input_shape)
        self.built = True

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        return self._replaced.compute_output_spec(ids)

    def call(self, ids: Any) -> Any:
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self.call(ids.flat_values))
        rows = self._rows(tf.math.floormod(ids, HASH_BUCKETS))
        return rows if self._replaced.combiner is None else tf.reduce_sum(rows, axis=-2)


def with_own_embeddings(model: keras.Model) -> keras.Model:
    """Return the model with every `Embedding` replaced by one that trains in this process.

    One that has none is returned as it is: Keras cannot clone every class derived from Model.
    """
    if not any(isinstance(layer, Embedding) for layer in model.layers):
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Embedding):
            return HashedEmbedding(layer)
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def with_own_loss(model: keras.Model, contract: Contract) -> keras.Model:
    """Return the model, compiled with the definition's optimizer and loss.

    Keras itself would make float32 of all labels, and want a loss for each output.
    """

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **_: Any
    ) -> tf.Tensor:
        return tf.add_n([contract.loss(y_pred, y, sample_weight), *model.losses])

    model.compute_loss = compute_loss
    model.compile(optimizer=contract.create_optimizer())
    return model


@dataclass(frozen=True)
class Fitted:
    """A model that was trained.

    Attributes:
      contract: its definition.
      model: with embeddings of its own.
      records: trained on, over all epochs.
      training_seconds: of ``model.fit`` alone, which compiles the model's functions too.
      call_seconds: with reading the records into memory and building the model before it.
      loss: of the last epoch.
    """

    contract: Contract
    model: keras.Model
    records: int
    training_seconds: float
    call_seconds: float
    loss: float


def fit(
    workload: Workload,
    pattern: str,
    minibatch_size: int,
    num_epochs: int,
    seed: int = 0,
    late: int = 0,
) -> Fitted:
    """Train once on the records of the files that a pattern matches.

    Args:
      workload: the model.
      pattern: of the files' paths.
      minibatch_size: records in a minibatch.
      num_epochs: how often the records are read.
      seed: of everything that is drawn.
      late: how many other gradients are applied between a gradient's parameters and itself; if
        any, a loop of our own trains in place of ``model.fit``.
    """
    started = time.perf_counter()
    keras.utils.set_random_seed(seed)
    source = ModelSource(MODEL_ZOO, workload.model_def, workload.params_text, seed=seed)
    contract = load_contract(source, Mode.TRAINING)
    records = _read(pattern)
    dataset = tf.data.Dataset.from_tensor_slices(records).shuffle(SHUFFLE_RECORDS)
    dataset = contract.dataset(dataset, Mode.TRAINING)
    dataset = dataset.batch(minibatch_size).prefetch(tf.data.AUTOTUNE)
    model = with_own_loss(with_own_embeddings(contract.create_model()), contract)
    fit_started = time.perf_counter()
    if late:
        loss = fit_late(model, dataset, num_epochs, late)
    else:
        loss = model.fit(dataset, epochs=num_epochs, verbose=0).history["loss"][-1]
    ended = time.perf_counter()
    return Fitted(
        contract=contract,
        model=model,
        records=len(records) * num_epochs,
        training_seconds=ended - fit_started,
        call_seconds=ended - started,
        loss=loss,
    )


def fit_late(model: keras.Model, dataset: tf.data.Dataset, num_epochs: int, late: int) -> float:
    """Train with late gradients; return the mean loss of the last epoch.

    Statistics of batch normalization are not late.
    """

    @tf.function(reduce_retracing=True)
    def differentiate(features: Any, labels: Any) -> tuple[tf.Tensor, list[Any]]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(features, labels, model(features, training=True))
        return loss, tape.gradient(loss, model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def apply(gradients: list[Any]) -> None:
        model.optimizer.apply(gradients, model.trainable_variables)

    model.optimizer.build(model.trainable_variables)
    waiting: deque[list[Any]] = deque()
    for _ in range(num_epochs):
        losses = []
        for features, labels in dataset:
            loss, gradients = differentiate(features, labels)
            losses.append(float(loss))
            waiting.append(gradients)
            if len(waiting) > late:
                apply(waiting.popleft())
    while waiting:
        apply(waiting.popleft())
    return statistics.fmean(losses)


def evaluate(fitted: Fitted, pattern: str, minibatch_size: int = 256) -> dict[str, float]:
    """Return the definition's metrics over the records of the files that a pattern matches."""
    contract, metrics = fitted.contract, Metrics(fitted.contract, Mode.EVALUATION)
    dataset = tf.data.Dataset.from_tensor_slices(_read(pattern))
    dataset = contract.dataset(dataset, Mode.EVALUATION).batch(minibatch_size)
    states: MetricStates = {}
    for features, labels in dataset:
        outputs = fitted.model(features, training=False)
        states = merge(states, metrics.measure(outputs, labels, len(labels)))
    return metrics.result(states)


def _read(pattern: str) -> list[bytes]:
    return [record for path in sorted(glob.glob(pattern)) for record in recordio.Scanner(path)]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=WORKLOADS, default="mnist")
    parser.add_argument("--minibatch_size", type=int)
    parser.add_argument("--num_epochs", type=int)
    given = parser.parse_args()
    workload = WORKLOADS[given.model]
    fitted = fit(
        workload,
        str(workload.prepare(given.model) / "train" / "*.recordio"),
        given.minibatch_size or workload.minibatch_size,
        given.num_epochs or workload.num_epochs,
    )
    names = ("records", "training_seconds", "call_seconds", "loss")
    print(json.dumps({name: getattr(fitted, name) for name in names}))


if __name__ == "__main__":
    main()
