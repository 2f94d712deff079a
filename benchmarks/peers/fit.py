"""`model.fit` of Keras 3 or of tf_keras, in one process, as people call it.

The table is the Keras's own `Embedding` of a million rows. tf_keras updates only a minibatch's rows
of it; with `tf_keras.optimizers.legacy.Adagrad`, which does so by one operation.

`python -m benchmarks.peers.fit REQUEST keras|tf_keras` measures it in its process.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from benchmarks.peers import contestant
from benchmarks.peers.contestant import Answer, Request, Stopwatch
from benchmarks.peers.datasets import endless
from benchmarks.peers.workloads import WORKLOADS
from benchmarks.peers.zoo.clicks import network
from benchmarks.peers.zoo.clicks.sizes import DIM, NUM_IDS

KERAS = ("keras", "tf_keras")
_STEPS_PER_EPOCH = 16


def adagrad(keras: Any) -> Any:
    """Return the optimizer: of tf_keras the one that is faster on rows of a table."""
    of = keras.optimizers.legacy if keras.__name__ == "tf_keras" else keras.optimizers
    return of.Adagrad(network.LEARNING_RATE)


def clicks_model(keras: Any) -> Any:
    """Return `deepfm`, compiled."""
    model = network.model(keras, keras.layers.Embedding(NUM_IDS, DIM))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(adagrad(keras), loss)
    return model


def measure(keras: Any, request: Request) -> Answer:
    """Time `fit`, by its epochs of a few steps."""
    samples = WORKLOADS[request.workload].minibatch_size
    watch = Stopwatch(request, samples)
    model = clicks_model(keras)

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


def main() -> None:
    """Measure, and tell the result."""
    request = contestant.start(sys.argv)
    contestant.answer(measure(importlib.import_module(sys.argv[2]), request))


if __name__ == "__main__":
    main()
