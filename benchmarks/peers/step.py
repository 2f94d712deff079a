"""The ceiling: the training step alone, as a `tf.function`, with everything it needs in memory.

Of `deepfm` it is given the minibatch's distinct rows and which of them each id has, as a job's step
is, and computes the loss and the gradients of the dense variables and of the rows. Nothing is read,
looked up, sent or applied. Of the other models it computes the loss and the gradients of all
variables, small tables included; nothing of that is applied either.

`python -m benchmarks.peers.step REQUEST` measures it in its process.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.fit import with_own_embeddings
from benchmarks.peers import contestant
from benchmarks.peers.contestant import Request
from benchmarks.peers.data import LABEL, read_minibatches
from benchmarks.peers.workloads import WORKLOADS
from benchmarks.peers.zoo.clicks import network
from benchmarks.peers.zoo.clicks.sizes import DIM, NUM_FIELDS, NUM_NUMERIC

_NUM_MINIBATCHES = 32


def clicks_step(request: Request) -> Callable[[], object]:
    """Return what does the step of `deepfm` on one minibatch after the other."""
    numeric = keras.Input((NUM_NUMERIC,))
    vectors = keras.Input((NUM_FIELDS, DIM))
    model = keras.Model([numeric, vectors], network.logits(keras, numeric, vectors))
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, NUM_NUMERIC]),
            tf.TensorSpec([None, 1]),
            tf.TensorSpec([None, DIM]),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def step(numeric: tf.Tensor, label: tf.Tensor, rows: tf.Tensor, inverse: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            vectors = tf.reshape(tf.gather(rows, inverse), [-1, NUM_FIELDS, DIM])
            logits = model([numeric, vectors], training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=label)
            )
        *of_variables, of_rows = tape.gradient(loss, [*variables, rows])
        summed = tf.math.unsorted_segment_sum(of_rows.values, of_rows.indices, tf.shape(rows)[0])
        return loss, of_variables, summed

    rng = np.random.default_rng(0)
    minibatches = []
    for minibatch in itertools.islice(read_minibatches(request.place), _NUM_MINIBATCHES):
        ids, inverse = np.unique(minibatch["categorical"], return_inverse=True)
        arrays = (
            minibatch["numeric"],
            minibatch[LABEL],
            rng.uniform(-0.05, 0.05, (len(ids), DIM)).astype(np.float32),
            inverse.reshape(-1).astype(np.int32),
        )
        minibatches.append([tf.constant(array) for array in arrays])
    following = itertools.cycle(minibatches)
    return lambda: step(*next(following))


def zoo_step(request: Request) -> Callable[[], object]:
    """Return what does the step of a model of the model zoo, with embeddings of its own."""
    contract = WORKLOADS[request.workload].contract()
    model = with_own_embeddings(contract.create_model())
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def step(features: Any, labels: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = contract.loss(model(features, training=True), labels)
            loss = tf.add_n([loss, *model.losses])
        return loss, tape.gradient(loss, variables)

    minibatches = []
    for columns in itertools.islice(read_minibatches(request.place), _NUM_MINIBATCHES):
        features = {name: tf.constant(array) for name, array in columns.items()}
        minibatches.append((features, features.pop(LABEL)))
    following = itertools.cycle(minibatches)
    return lambda: step(*next(following))


def main() -> None:
    """Measure, and tell the result."""
    request = contestant.start(sys.argv)
    tf.config.threading.set_intra_op_parallelism_threads(request.threads)
    tf.config.threading.set_inter_op_parallelism_threads(request.threads)
    step = (clicks_step if request.workload == "deepfm" else zoo_step)(request)
    samples = WORKLOADS[request.workload].minibatch_size
    contestant.answer(asdict(contestant.measure(step, request, samples)))


if __name__ == "__main__":
    main()
