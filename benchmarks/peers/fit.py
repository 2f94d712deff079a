"""`model.fit` of Keras 3 or of tf_keras, in one process, as people call it.

The table is the Keras's own `Embedding` of a million rows. tf_keras updates only a minibatch's rows
of it; with `tf_keras.optimizers.legacy.Adagrad`, which does so by one operation.

`python -m benchmarks.peers.fit REQUEST keras|tf_keras` measures it in its process. With a seed as
another argument, it trains on all minibatches once and tells the AUC on those held out.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.peers import contestant
from benchmarks.peers.contestant import Answer, Request, Stopwatch
from benchmarks.peers.datasets import dataset, endless
from benchmarks.peers.workloads import WORKLOADS, PeerWorkload
from benchmarks.peers.zoo.clicks import network
from benchmarks.peers.zoo.clicks.sizes import DIM, NUM_IDS

_STEPS_PER_EPOCH = 16


def adagrad(keras: Any) -> Any:
    """Return the optimizer: of tf_keras the one that is faster on rows of a table."""
    of = keras.optimizers.legacy if keras.__name__ == "tf_keras" else keras.optimizers
    return of.Adagrad(network.LEARNING_RATE, network.INITIAL_ACCUMULATOR)


def clicks_model(keras: Any) -> Any:
    """Return `deepfm`, compiled."""
    model = network.model(keras, keras.layers.Embedding(NUM_IDS, DIM))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(adagrad(keras), loss)
    return model


def zoo_model(workload: PeerWorkload) -> Any:
    """Return a model of the model zoo, compiled for Keras 3, with embeddings of its own."""
    from benchmarks.fit import with_own_embeddings, with_own_loss

    contract = workload.contract()
    return with_own_loss(with_own_embeddings(contract.create_model()), contract)


def measure(keras: Any, request: Request) -> Answer:
    """Time `fit`, by its epochs of a few steps."""
    workload = WORKLOADS[request.workload]
    watch = Stopwatch(request, workload.minibatch_size)
    model = clicks_model(keras) if request.workload == "deepfm" else zoo_model(workload)

    class Watch(keras.callbacks.Callback):
        """Ends the training once it was timed."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = watch.after(_STEPS_PER_EPOCH)

    model.fit(
        endless(request),
        epochs=1_000_000,
        steps_per_epoch=_STEPS_PER_EPOCH,
        callbacks=[Watch()],
        verbose=0,
    )
    assert watch.found is not None
    return watch.found


def auc(keras: Any, request: Request, seed: int) -> float:
    """Train on all minibatches once; return what the model reaches on those held out."""
    keras.utils.set_random_seed(seed)
    model = clicks_model(keras)
    model.fit(dataset(request), verbose=0)
    metric = keras.metrics.AUC(num_thresholds=1000, from_logits=True)
    for features, labels in dataset(request, "test"):
        metric.update_state(labels, model(features, training=False))
    return float(metric.result())


def main() -> None:
    """Measure, and tell the result."""
    request = contestant.start(sys.argv)
    keras = importlib.import_module(sys.argv[2])
    if len(sys.argv) > 3:
        contestant.answer({"auc": auc(keras, request, int(sys.argv[3]))})
    contestant.answer(asdict(measure(keras, request)))


if __name__ == "__main__":
    main()
