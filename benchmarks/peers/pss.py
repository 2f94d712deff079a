"""TensorFlow's own parameter servers: `ParameterServerStrategy` with a `ClusterCoordinator`.

One parameter server and the workers are `tf.distribute.Server`s in processes of their own; this
process coordinates. The model is tf_keras's, in a training loop as TensorFlow's guide writes it,
with the optimizer that updates only a minibatch's rows. As the strategy is to be shown at its best,
each function that is scheduled trains several minibatches, and *tuned* is the same with a lookup
that asks the parameter server for each distinct id once.

`python -m benchmarks.peers.pss REQUEST plain|tuned` measures it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import tensorflow as tf
import tf_keras

from benchmarks.peers import contestant
from benchmarks.peers.contestant import Answer, Request
from benchmarks.peers.datasets import endless
from benchmarks.peers.fit import adagrad
from benchmarks.peers.processes import cpu_seconds
from benchmarks.peers.workloads import WORKLOADS
from benchmarks.peers.zoo.clicks import network
from benchmarks.peers.zoo.clicks.sizes import DIM, NUM_IDS
from elasticdl.instance import PARENT_VARIABLE, die_with_parent

_STEPS = 8  # of a function that is scheduled
_HOST = "127.0.0.1"

Cluster = dict[str, list[str]]


class DistinctRows(tf_keras.layers.Layer):
    """An embedding that looks up distinct ids."""

    def build(self, input_shape: Any) -> None:
        self._table = self.add_weight("table", (NUM_IDS, DIM), initializer="uniform")
        self.built = True

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        distinct, inverse = tf.unique(tf.reshape(ids, [-1]))
        vectors = tf.gather(tf.gather(self._table, distinct), inverse)
        return tf.reshape(vectors, [-1, *ids.shape[1:], DIM])


def free_addresses(number: int) -> list[str]:
    """Return addresses of ports that nobody listens on."""
    with ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for each in held:
            each.bind((_HOST, 0))
        return [f"{_HOST}:{each.getsockname()[1]}" for each in held]


@contextmanager
def running_servers(cluster: Cluster) -> Iterator[dict[str, list[int]]]:
    """Run the servers of a cluster; yields their process ids by role."""
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    pids: dict[str, list[int]] = defaultdict(list)
    try:
        for role, addresses in cluster.items():
            for index in range(len(addresses)):
                words = [json.dumps(cluster), role, str(index)]
                command = [sys.executable, "-m", "benchmarks.peers.pss", *words]
                process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
                processes.append(process)
                pids[role].append(process.pid)
        yield dict(pids)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def serve(cluster: Cluster, role: str, index: int) -> None:
    """Be one server of a cluster, until the coordinator ends."""
    die_with_parent()
    server = tf.distribute.Server(
        tf.train.ClusterSpec(cluster), job_name=role, task_index=index, protocol="grpc", start=True
    )
    server.join()


def scheduler(request: Request, cluster: Cluster, lookup: str) -> Callable[[int], None]:
    """Return what has the cluster train so many scheduled functions, and waits for them."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), rpc_layer="grpc"
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        tuned = lookup == "tuned"
        embedding = DistinctRows() if tuned else tf_keras.layers.Embedding(NUM_IDS, DIM)
        model = network.model(tf_keras, embedding)
        optimizer = adagrad(tf_keras)

    def train(features: Any, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(features, training=True)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    @tf.function
    def steps(minibatches: Any) -> None:
        for _ in range(_STEPS):
            strategy.run(train, args=next(minibatches))

    minibatches = iter(coordinator.create_per_worker_dataset(lambda: endless(request)))

    def schedule(count: int) -> None:
        for _ in range(count):
            coordinator.schedule(steps, args=(minibatches,))
        coordinator.join()

    return schedule


def measure(
    request: Request, pids: Mapping[str, Sequence[int]], cluster: Cluster, lookup: str
) -> Answer:
    """Time the training of a cluster that runs."""
    samples = _STEPS * WORKLOADS[request.workload].minibatch_size
    schedule = scheduler(request, cluster, lookup)
    schedule(2 * request.num_workers)  # traces
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < request.warm_up_s:
        schedule(2 * request.num_workers)
        count += 2 * request.num_workers
    per_s = count / (time.perf_counter() - began)
    # As many as take the time that counts, at once, as no worker waits for another meanwhile.
    count = max(2 * request.num_workers, round(per_s * request.seconds))
    before, began = _used(pids), time.perf_counter()
    schedule(count)
    seconds = time.perf_counter() - began
    used = {role: after - before[role] for role, after in _used(pids).items()}
    return Answer(count * samples, seconds, used)


def _used(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    everyone = {**pids, "coordinator": [os.getpid()]}
    return {role: sum(map(cpu_seconds, each)) for role, each in everyone.items()}


def main() -> None:
    """Coordinate, measure and tell the result; or serve."""
    if len(sys.argv) > 3:
        serve(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
        return
    request = contestant.start(sys.argv)
    ps, *workers = free_addresses(1 + request.num_workers)
    cluster = {"worker": workers, "ps": [ps]}
    with running_servers(cluster) as pids:
        found = measure(request, pids, cluster, sys.argv[2])
    contestant.answer(asdict(found))


if __name__ == "__main__":
    main()
