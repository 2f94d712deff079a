"""What a checkpoint of a large table takes, and how long training waits for it.

    python -m benchmarks.checkpoint
    python -m benchmarks.checkpoint --rows=100000000 --directory=/mnt/ssd

One partition holds a table of ``--rows`` × 16 with Adagrad's slots, and is trained all the time by
pulls and pushes of 10,000 ids, as a worker's minibatch of DeepFM has them. By turns
- one process writes a file of the checkpoint's size to the same disk, and syncs it;
- a whole checkpoint is written, as a parameter server does it while it is trained;
- another partition is restored from it.

The stall is how much longer than the median the longest training step took from the moment the
checkpoint was asked for until it was written: a pull and a push, everything in one process.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, add_arguments, finish
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import ModelLayout, ParameterClient
from elasticdl.ps.manifest import Manifest, directory_of, write_manifest
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.rpc import DirectTransport, Service

DIM = 16
NUM_GROUPS = 64
ROWS = 10_000_000
QUICK_ROWS = 200_000
IDS_A_STEP = 10_000
_PAGE = 1 << 16
_BLOCK = 8 << 20
_POLL_S = 0.01
_GIGA = 1e9
_MODEL = ps_pb2.ModelDefinition(
    tables=[
        ps_pb2.TableDefinition(
            name="rows",
            dim=DIM,
            initializer=ps_pb2.RowInitializer(kind="uniform", seed=5, a=-0.05, b=0.05),
        )
    ],
    variables=[ps_pb2.VariableDefinition(name="kernel", shape=[1000], trainable=True)],
    optimizer=OptimizerConfig(name="adagrad", learning_rate=0.01).to_json(),
)


class Trained:
    """A partition with a table of some rows, and who trains it, in this process."""

    def __init__(self, num_rows: int) -> None:
        self.partition = Partition(0, 1)
        routing = RoutingTable.initial(NUM_GROUPS, 1)
        self.routing = ps_pb2.Routing(
            version=routing.version, partition_of_group=routing.partition_of_group
        )
        service = Service(ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"], self.partition)
        self.client = ParameterClient(
            master_pb2.Cluster(
                routing=self.routing, partitions=[master_pb2.Partition(index=0, incarnation=1)]
            ),
            lambda one: DirectTransport(service),
            ModelLayout(_MODEL),
        )
        self.client.initialize(np.zeros(1000, np.float32))
        rng = np.random.default_rng(0)
        self.ids = np.unique(rng.integers(0, 1 << 62, num_rows))
        rng.shuffle(self.ids)
        for first in range(0, len(self.ids), _PAGE):
            ids = self.ids[first : first + _PAGE]
            self.client.load_rows("rows", ids, rng.random((len(ids), DIM), np.float32))
        self._rng = rng
        self._steps = 0

    def step(self) -> float:
        """Pull the rows of a minibatch and push their gradients; return how long that took."""
        ids = self.ids[self._rng.integers(0, len(self.ids), IDS_A_STEP)]
        began = time.perf_counter()
        lookup = self.client.prepare([ids])
        pulled = self.client.start_pull(lookup).result()
        header = ps_pb2.PushHeader(task=1, k=self._steps, num_records=1024, loss=1.0)
        gradients = [rows * np.float32(1e-3) for rows in pulled.rows]
        self.client.push(0, header, lookup, gradients, np.zeros(1000, np.float32))
        self._steps += 1
        return time.perf_counter() - began


@dataclass
class Training:
    """Steps taken one after the other, by a thread, as long as the context lasts."""

    trained: Trained
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Training:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._train)
        self._thread.start()
        return self

    def _train(self) -> None:
        while not self._ended.is_set():
            self.seconds.append(self.trained.step())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def write_checkpoint(trained: Trained, root: Path, number: int) -> tuple[float, Path, int]:
    """Write a whole checkpoint; return how long it took, where it is, and its bytes."""
    directory = directory_of(root, number)
    directory.mkdir(parents=True)
    request = ps_pb2.SnapshotRequest(incarnation=1, number=number, directory=str(directory))
    began = time.perf_counter()
    reply = trained.partition.snapshot(request)
    while reply.state == ps_pb2.SnapshotReply.WRITING:
        time.sleep(_POLL_S)
        reply = trained.partition.snapshot(request)
    if reply.state != ps_pb2.SnapshotReply.WRITTEN:
        raise SystemExit(f"the checkpoint was not written: {reply.message}")
    part = json.loads(reply.part)
    manifest = Manifest(
        number=number,
        chain=(number,),
        entry=number,
        job_name="benchmark",
        steps=part["version"],
        time=time.time(),
        routing=list(trained.routing.partition_of_group),
        routing_version=trained.routing.version,
        model=base64.b64encode(reply.model.SerializeToString(deterministic=True)).decode(),
        parts=[part],
        tasks=[],
    )
    path = write_manifest(root, manifest)
    return time.perf_counter() - began, path, sum(one["bytes"] for one in part["files"])


def write_plainly(path: Path, num_bytes: int) -> float:
    """Write a file of random bytes and sync it; return how long that took."""
    block = np.random.default_rng(0).integers(0, 255, _BLOCK, np.uint8).data
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = num_bytes
        while left:
            left -= file.write(block[: min(left, _BLOCK)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def restore(path: Path, routing: ps_pb2.Routing) -> float:
    """Restore a partition from a checkpoint; return how long that took."""
    for file in path.iterdir():  # What was written just now is to come from the disk.
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    Partition(0, 2).restore(Source.checkpoint(path), routing)
    return time.perf_counter() - began


def measure(num_rows: int, rounds: int, place: Path) -> list[Figure]:
    """Take turns; return the figures."""
    trained = Trained(num_rows)
    for _ in range(10):
        trained.step()
    plain, written, restored, stalls, steps = [], [], [], [], []
    for number in range(1, rounds + 1):
        root = place / str(number)
        with Training(trained) as training:
            time.sleep(1.0)
            undisturbed = statistics.median(training.seconds)
            before = len(training.seconds)
            seconds, path, num_bytes = write_checkpoint(trained, root, number)
        stalls.append(1e3 * (max(training.seconds[before:]) - undisturbed))
        steps.append(1e3 * undisturbed)
        written.append(num_bytes / seconds / _GIGA)
        plain.append(num_bytes / write_plainly(place / "plain", num_bytes) / _GIGA)
        restored.append(num_bytes / restore(path, trained.routing) / _GIGA)
        shutil.rmtree(root)
    pairs = list(zip(plain, written, restored, strict=True))
    return [
        Figure("one process writes", statistics.median(plain), "GB/s"),
        Figure("checkpoint, while trained", statistics.median(written), "GB/s"),
        Figure("restore", statistics.median(restored), "GB/s"),
        Figure(
            "checkpoint / one process writes",
            statistics.median(ours / theirs for theirs, ours, _ in pairs),
            at_least=0.7,
        ),
        Figure(
            "restore / one process writes",
            statistics.median(ours / theirs for theirs, _, ours in pairs),
            at_least=0.7,
        ),
        Figure("a training step", statistics.median(steps), "ms", less_is_better=True),
        Figure("longest stall of a step", statistics.median(stalls), "ms", at_most=100.0),
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, rounds=3)
    parser.add_argument("--rows", type=int, default=ROWS, help="of the table")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured")
    given = parser.parse_args(words)
    rows, rounds = (QUICK_ROWS, 1) if given.quick else (given.rows, given.rounds)
    with tempfile.TemporaryDirectory(dir=given.directory) as place:
        figures = measure(rows, rounds, Path(place))
    return finish(given, f"checkpoint of {rows:,} rows of {DIM} with slots", figures, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
