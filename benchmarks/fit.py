"""Train a workload with Keras's own ``model.fit`` in this process; print one line of JSON.

What the other benchmarks compare with. Embeddings on parameter servers become Keras's own here,
with ids hashed into a fixed number of rows, as one does without parameter servers.
"""

from __future__ import annotations

import argparse
import glob
import json
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.workloads import MODEL_ZOO, WORKLOADS, Workload, prepare
from elasticdl.data import recordio
from elasticdl.layers import Embedding
from elasticdl.model.mode import Mode
from elasticdl.model.resolver import resolve
from elasticdl.model.spec import ElasticDLSpec
from elasticdl.model.zoo import ModelZoo

HASH_BUCKETS = 1 << 17
SHUFFLE_RECORDS = 16384


class HashedEmbedding(keras.layers.Layer):
    """Stands in for an `Embedding`: a Keras embedding over ids modulo ``HASH_BUCKETS``."""

    def __init__(self, replaced: Embedding) -> None:
        super().__init__(name=replaced.name)
        if replaced.combiner not in (None, "sum"):
            raise NotImplementedError(f"combiner '{replaced.combiner}'")
        self._sums = replaced.combiner == "sum"
        self._rows = keras.layers.Embedding(
            HASH_BUCKETS,
            replaced.output_dim,
            embeddings_initializer=replaced.embeddings_initializer,
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        rows = self._rows(tf.math.floormod(ids, HASH_BUCKETS))
        return tf.reduce_sum(rows, axis=-2) if self._sums else rows


def with_own_embeddings(model: keras.Model) -> keras.Model:
    """Return the model with every `Embedding` replaced by one that trains in this process."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Embedding):
            return HashedEmbedding(layer)
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def create_spec(workload: Workload) -> ElasticDLSpec:
    """Return the workload's model definition."""
    spec: ElasticDLSpec = resolve(ModelZoo(MODEL_ZOO), workload.model_def).value(**workload.params)
    return spec


def create_loss(spec: ElasticDLSpec, labels: tf.TypeSpec) -> Callable[[Any, Any], Any]:
    """Return the spec's loss as Keras calls it, which makes float32 of all labels."""
    return lambda y, outputs: spec.create_loss(outputs, tf.cast(y, labels.dtype))


def fit(workload: Workload, pattern: str, minibatch_size: int, num_epochs: int) -> dict[str, Any]:
    """Train once.

    Returns:
      ``records`` trained on, over all epochs; ``training_seconds`` of ``model.fit`` alone, which
      compiles the model's functions too; ``call_seconds``, with reading the records into memory and
      building the model before it; ``loss`` of the last epoch.
    """
    started = time.perf_counter()
    spec = create_spec(workload)
    records = [record for path in sorted(glob.glob(pattern)) for record in recordio.Scanner(path)]
    dataset = tf.data.Dataset.from_tensor_slices(records).shuffle(SHUFFLE_RECORDS)
    dataset = spec.create_dataset(dataset, Mode.TRAINING)
    dataset = dataset.batch(minibatch_size).prefetch(tf.data.AUTOTUNE)
    model = with_own_embeddings(spec.create_model())
    loss = create_loss(spec, dataset.element_spec[1])
    model.compile(optimizer=spec.create_optimizer(), loss=loss)
    fit_started = time.perf_counter()
    history = model.fit(dataset, epochs=num_epochs, verbose=0)
    ended = time.perf_counter()
    return {
        "records": len(records) * num_epochs,
        "training_seconds": ended - fit_started,
        "call_seconds": ended - started,
        "loss": history.history["loss"][-1],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=WORKLOADS, default="mnist")
    parser.add_argument("--minibatch_size", type=int)
    parser.add_argument("--num_epochs", type=int)
    given = parser.parse_args()
    workload = WORKLOADS[given.model]
    result = fit(
        workload,
        prepare(given.model),
        given.minibatch_size or workload.minibatch_size,
        given.num_epochs or workload.num_epochs,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
