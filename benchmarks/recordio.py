"""Reading records and making minibatches of them, next to TensorFlow's own way, on one core.

    python -m benchmarks.recordio
    python -m benchmarks.recordio --rounds=9 --json=output/recordio.json

The same Examples (26 int64, 13 floats and a label: the clicks of `benchmarks.peers`) are made
minibatches of 1,024, by turns
- by a worker's input pipeline from RecordIO, through an input function that parses one record, as
  people write it; with ``shuffled``, each task's records are permuted, as jobs do by default;
- by ``tf.data.TFRecordDataset``, batched and then parsed with ``tf.io.parse_example``; and, to see
  what that is worth, parsed one by one and then batched.

What counts is the processor time of the whole process, all threads, by a thousand samples: a busy
machine does not change it. The raw scan reads a file's records, their checksum verified, and does
nothing with them; its bytes are those of the records.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, add_arguments, finish
from benchmarks.workloads import DATA

MINIBATCH_SIZE = 1024
MINIBATCHES = 64
QUICK_MINIBATCHES = 6
MINIBATCHES_PER_TASK = 16
_WARM_UP = 2  # minibatches that do not count: tracing is in them
_MAX_CHUNK_BYTES = 256 << 20
_GIGA = 1e9

COMPRESSIONS = {"none": "", "gzip": "GZIP"}
"""Of RecordIO, and what TFRecord calls it."""


def prepare(minibatches: int) -> Path:
    """Write the Examples in every form unless they are there; return the directory."""
    import tensorflow as tf

    from benchmarks.peers.clicks import Clicks
    from elasticdl.data import example, recordio

    directory = DATA / "benchmarks" / f"recordio_{minibatches}"
    if (directory / "complete").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    records = [
        example.encode({name: values[row] for name, values in minibatch.items()})
        for minibatch in Clicks().minibatches(minibatches, MINIBATCH_SIZE, 1)
        for row in range(MINIBATCH_SIZE)
    ]
    for compressor in (*COMPRESSIONS, "snappy"):
        path = directory / f"{compressor}.recordio"
        # Chunks as `elasticdl data convert` makes them.
        with recordio.Writer(path, compressor, chunk_bytes=1 << 20) as writer:
            for record in records:
                writer.write(record)
    for compressor, name in COMPRESSIONS.items():
        options = tf.io.TFRecordOptions(compression_type=name)
        with tf.io.TFRecordWriter(str(directory / f"{compressor}.tfrecord"), options) as file:
            for record in records:
                file.write(record)
    (directory / "complete").touch()
    return directory


def cpu_s(items: Iterable[Any], skipped: int) -> tuple[float, int]:
    """Return the processor time after so many items, and how many items came after them."""
    iterator = iter(items)
    for _ in range(skipped):
        next(iterator)
    began = time.process_time()
    count = sum(1 for _ in iterator)
    return time.process_time() - began, count


def of_worker(path: Path, shuffled: bool = False) -> Iterator[Any]:
    """Yield the minibatches that a worker makes of a RecordIO file."""
    from benchmarks.peers.workloads import WORKLOADS
    from elasticdl.data.recordio import Index
    from elasticdl.model.mode import Mode
    from elasticdl.worker.pipeline import Minibatch, TaskPipeline
    from elasticdl.worker.records import read_task_records

    contract = WORKLOADS["deepfm"].contract()
    pipeline = TaskPipeline(contract, Mode.TRAINING, MINIBATCH_SIZE)
    total, size = Index(path).num_records, MINIBATCHES_PER_TASK * MINIBATCH_SIZE
    starts = iter(range(0, total, size))

    def put(start: int | None) -> None:
        if start is None:
            pipeline.close()
            return
        seed = str(start) if shuffled else None
        end = min(start + size, total)
        records = read_task_records(str(path), start, end, seed, _MAX_CHUNK_BYTES)
        pipeline.put(start, records)

    put(next(starts, None))
    put(next(starts, None))
    for item in pipeline:
        if isinstance(item, Minibatch):
            yield item
        else:
            put(next(starts, None))
    pipeline.release()


def of_tensorflow(path: Path, compression: str, one_by_one: bool = False) -> Iterator[Any]:
    """Yield the minibatches that TensorFlow makes of a TFRecord file."""
    import tensorflow as tf

    from benchmarks.peers.zoo.clicks.clicks_spec import COLUMNS

    description = {
        name: tf.io.FixedLenFeature(shape, dtype) for name, (shape, dtype) in COLUMNS.items()
    }
    records = tf.data.TFRecordDataset(str(path), compression_type=compression)
    if one_by_one:
        parsed = records.map(lambda record: tf.io.parse_single_example(record, description))
        return iter(parsed.batch(MINIBATCH_SIZE).prefetch(2))
    batches = records.batch(MINIBATCH_SIZE)
    return iter(batches.map(lambda some: tf.io.parse_example(some, description)).prefetch(2))


def scan(path: Path) -> tuple[float, int]:
    """Return the processor time of reading all records of a RecordIO file, and their bytes."""
    from elasticdl.data.recordio import Scanner

    began = time.process_time()
    num_bytes = sum(sum(map(len, records)) for records in Scanner(path).batches())
    return time.process_time() - began, num_bytes


def measure(minibatches: int, rounds: int) -> list[Figure]:
    """Let all take turns; return the figures."""
    directory = prepare(minibatches)
    turns: dict[str, Callable[[], Iterator[Any]]] = {
        "worker, one file shuffled": lambda: of_worker(directory / "none.recordio", True),
        "worker, snappy": lambda: of_worker(directory / "snappy.recordio"),
        "tf.data, one by one": lambda: of_tensorflow(directory / "none.tfrecord", "", True),
    }
    for compressor, name in COMPRESSIONS.items():
        turns[f"worker, {compressor}"] = lambda c=compressor: of_worker(directory / f"{c}.recordio")  # type: ignore[misc]
        turns[f"tf.data, {compressor}"] = lambda c=compressor, n=name: of_tensorflow(  # type: ignore[misc]
            directory / f"{c}.tfrecord", n
        )
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    scans: list[float] = []
    for _ in range(rounds):
        for name, make in turns.items():
            seconds, count = cpu_s(make(), _WARM_UP)
            speeds[name].append(count * MINIBATCH_SIZE / seconds)
        seconds, num_bytes = scan(directory / "none.recordio")
        scans.append(num_bytes / seconds / _GIGA)
    figures = [
        Figure(name, statistics.median(each), "samples a CPU second")
        for name, each in speeds.items()
    ]
    for compressor in COMPRESSIONS:
        pairs = zip(speeds[f"worker, {compressor}"], speeds[f"tf.data, {compressor}"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        figures.append(Figure(f"worker / tf.data, {compressor}", ratio, at_least=1.0))
    figures.append(Figure("raw scan with CRC", statistics.median(scans), "GB a CPU second", 1.0))
    return figures


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recordio",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, rounds=5)
    given = parser.parse_args(words)
    cores = os.sched_getaffinity(0)
    # Before TensorFlow starts its threads.
    os.sched_setaffinity(0, {min(cores)})
    try:
        minibatches = QUICK_MINIBATCHES if given.quick else MINIBATCHES
        figures = measure(minibatches, 1 if given.quick else given.rounds)
    finally:
        os.sched_setaffinity(0, cores)
    return finish(given, "RecordIO to minibatches, one core", figures, minibatches=minibatches)


if __name__ == "__main__":
    raise SystemExit(main())
