"""The parameter server's kernels, next to what the memory allows: random rows, medians.

    python -m benchmarks.kernels
    python -m benchmarks.kernels --rows=100000000 --only=growth

*Of memory* is the speed of a kernel divided by that of a loop that touches an element of the same
cache lines, of rows chosen alike, and does nothing with them, in turns with the kernel
(``benchmarks/touching.py``): what is lost is computing. Every call takes other random ids, so that
a large table's rows come from memory.

A table then grows from nothing to all rows by pushes' worth of new ids; the pause is the longest
that one of them took, beside it in processor time, which other work does not prolong, and memory is
what the process has more then, the index of ids left out, divided by what weights and slots alone
would take. Of that table, pulls and pushes of many rows are done by all cores and by one, in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import touching
from benchmarks.figures import Figure, add_arguments, finish
from elasticdl.cores import usable_cores
from elasticdl.ps import kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.id_index import IdIndex
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig, apply_rows
from elasticdl.ps.routing import deduplicate
from elasticdl.ps.routing_table import RoutingTable

ROWS = 10_000_000
QUICK_ROWS = 20_000
OPTIMIZERS = {
    "sgd": OptimizerConfig("sgd"),
    "sgd, momentum": OptimizerConfig("sgd", momentum=0.9),
    "sgd, nesterov": OptimizerConfig("sgd", momentum=0.9, nesterov=True),
    "adagrad": OptimizerConfig("adagrad"),
    "adam": OptimizerConfig("adam"),
    "adam, amsgrad": OptimizerConfig("adam", amsgrad=True),
    "adamw": OptimizerConfig("adamw", weight_decay=0.004),
    "adamax": OptimizerConfig("adamax"),
    "nadam": OptimizerConfig("nadam"),
    "adadelta": OptimizerConfig("adadelta"),
    "rmsprop": OptimizerConfig("rmsprop"),
    "rmsprop, momentum, centered": OptimizerConfig("rmsprop", momentum=0.9, centered=True),
    "ftrl": OptimizerConfig("ftrl"),
    "lion": OptimizerConfig("lion"),
}
PARTS = ("index", "rows", "growth", "deduplication")
MANY_ROWS = (16_384, 65_536, 262_144)
_FEWER_CALLS = 4
_MILLION = 1e6
_OF_MEMORY = 0.5
_LONGEST_PAUSE_MS = 50.0
_MOST_MEMORY = 1.15
_SHARE_OF_MEMORY = 0.9
_OTHER_BYTES = 80
"""Of a row: index, ids, and the benchmark's own."""

Work = Callable[[np.ndarray], Any]


class Turns:
    """Times kernels and what touches the same memory by turns.

    Args:
      num_rows: of the table.
      batch: random rows of one call.
      calls: how often each is called; one more before them does not count.
    """

    def __init__(self, num_rows: int, batch: int, calls: int) -> None:
        self.rng = np.random.default_rng(0)
        self.batch = batch
        self._num_rows = num_rows
        self.calls = calls

    def rows(self) -> np.ndarray:
        """Draw distinct rows."""
        drawn = np.unique(self.rng.integers(0, self._num_rows, 2 * self.batch))
        self.rng.shuffle(drawn)
        return drawn[: self.batch]

    def seconds(self, *work: Work, draw: Callable[[], np.ndarray] | None = None) -> np.ndarray:
        """Return what each call of each took, ``[calls, works]``."""
        found = np.empty((self.calls + 1, len(work)))
        for call in range(self.calls + 1):
            for position, each in enumerate(work):
                argument = (draw or self.rows)()
                began = time.perf_counter()
                each(argument)
                found[call, position] = time.perf_counter() - began
        return found[1:]

    def figures(self, name: str, work: Work, touch: Work) -> list[Figure]:
        """Return the speed of a kernel, and what share that is of what memory allows."""
        seconds = self.seconds(work, touch)
        speed = self.batch / float(np.median(seconds[:, 0])) / _MILLION
        share = float(np.median(seconds[:, 1] / seconds[:, 0]))
        return [
            Figure(name, speed, "M rows/s"),
            Figure(f"{name}, of memory", share, at_least=_OF_MEMORY),
        ]


def of_index(turns: Turns, ids: np.ndarray) -> list[Figure]:
    """Measure finding ids."""
    index = IdIndex()
    index.reserve(len(ids))
    index.insert(ids, 0, np.empty(len(ids), np.int64))
    num_slots = index.num_bytes // 16
    # Drawn outside of what is timed: taking ids from memory is another random access.
    drawn: dict[str, np.ndarray] = {}

    def find(_: np.ndarray) -> None:
        index.find(drawn["ids"])

    def touch(_: np.ndarray) -> None:
        touching.read_slots(index._slots.rows, drawn["places"])

    def draw() -> np.ndarray:
        rows = turns.rows()
        drawn["ids"] = ids[rows]
        drawn["places"] = turns.rng.integers(0, num_slots, len(rows))
        return rows

    seconds = turns.seconds(find, touch, draw=draw)
    return [
        Figure("find", turns.batch / float(np.median(seconds[:, 0])) / _MILLION, "M ids/s"),
        Figure(
            "find, of memory",
            float(np.median(seconds[:, 1] / seconds[:, 0])),
            at_least=_OF_MEMORY,
        ),
    ]


def of_rows(turns: Turns, num_rows: int, dim: int) -> list[Figure]:
    """Measure gathering and updating rows, by every optimizer."""
    widest = 1 + max(config.num_slots for config in OPTIMIZERS.values())
    memory = Arena(np.float32, dim * widest)
    memory.reserve(num_rows)
    flat = memory.rows[:num_rows].reshape(-1)
    flat[:] = 0.1
    gradients = turns.rng.normal(size=(turns.batch, dim)).astype(np.float32)
    iterations = np.ones(turns.batch, np.int64)
    out = np.empty((turns.batch, dim), np.float32)
    figures = []

    def of(config: OptimizerConfig) -> np.ndarray:
        columns = dim * (1 + config.num_slots)
        return flat[: num_rows * columns].reshape(num_rows, columns)

    adagrad = of(OPTIMIZERS["adagrad"])
    figures += turns.figures(
        "gather",
        lambda rows: kernels.gather_rows(adagrad, rows, out[: len(rows)]),
        lambda rows: touching.read_rows(adagrad, rows, dim),
    )
    for name, config in OPTIMIZERS.items():
        storage = of(config)

        def update(
            rows: np.ndarray, storage: np.ndarray = storage, config: OptimizerConfig = config
        ) -> None:
            count = len(rows)
            apply_rows(config, storage, rows, gradients[:count], 0.01, iterations[:count])

        def touch(rows: np.ndarray, storage: np.ndarray = storage) -> None:
            touching.change_rows(storage, rows)

        figures += turns.figures(name, update, touch)
    return figures


def of_growth(turns: Turns, ids: np.ndarray, dim: int) -> list[Figure]:
    """Let a table grow to all ids, and measure what that takes."""
    config = OPTIMIZERS["adagrad"]
    initializer = RowInitializer("uniform", 1, -0.05, 0.05)
    before = _resident_bytes()
    table = EmbeddingTable("t", dim, config, initializer)
    seconds, processor_seconds = [], []
    for first in range(0, len(ids), turns.batch):
        began, began_processor = time.perf_counter(), time.thread_time()
        table.reserve(ids[first : first + turns.batch])
        seconds.append(time.perf_counter() - began)
        processor_seconds.append(time.thread_time() - began_processor)
    payload = len(ids) * dim * (1 + config.num_slots) * 4
    of_ids = table._directory.num_bytes
    memory = (_resident_bytes() - before - of_ids) / payload
    figures = [
        Figure("create", len(ids) / sum(seconds) / _MILLION, "M rows/s"),
        Figure("longest pause", 1e3 * max(seconds), "ms", at_most=_LONGEST_PAUSE_MS),
        Figure(
            "longest pause, processor time", 1e3 * max(processor_seconds), "ms", less_is_better=True
        ),
        Figure("a push's worth of new rows", 1e3 * statistics.median(seconds), "ms"),
        Figure("memory / weights and slots", memory, at_most=_MOST_MEMORY),
        Figure("index and ids", of_ids / len(ids), "bytes a row", less_is_better=True),
    ]
    figures += _of_cores(turns, table, ids, dim)
    return figures + list(_of_snapshots(turns, table, ids, dim))


def _of_cores(turns: Turns, table: EmbeddingTable, ids: np.ndarray, dim: int) -> list[Figure]:
    """Measure pulls and pushes of many rows, by all cores and by one."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    many = [count for count in MANY_ROWS if 4 * count <= len(ids)]
    if len(cores) < 2:
        return []
    figures = []
    for count in many:
        gradients = turns.rng.normal(size=(count, dim)).astype(np.float32)
        iterations = np.ones(count, np.int64)
        drawn = Turns(len(ids), count, turns.calls)

        def pull(some: np.ndarray) -> None:
            table.lookup(some)

        def push(
            some: np.ndarray, gradients: np.ndarray = gradients, ones: np.ndarray = iterations
        ) -> None:
            table.apply(some, gradients[: len(some)], 0.01, ones[: len(some)])

        for name, work in (("pull", pull), ("push", push)):
            seconds = np.empty((max(3, turns.calls // _FEWER_CALLS), 2))
            for call in seconds:
                for position, some in enumerate((cores, {min(cores)})):
                    os.sched_setaffinity(0, some)
                    wanted = ids[drawn.rows()]
                    began = time.perf_counter()
                    work(wanted)
                    call[position] = time.perf_counter() - began
            os.sched_setaffinity(0, cores)
            speed = count / float(np.median(seconds[:, 0])) / _MILLION
            gained = float(np.median(seconds[:, 1] / seconds[:, 0]))
            figures += [
                Figure(f"{name} of {count:,}", speed, "M rows/s"),
                Figure(f"{name} of {count:,}, {usable_cores()} cores / one", gained),
            ]
    return figures


def _of_snapshots(
    turns: Turns, table: EmbeddingTable, ids: np.ndarray, dim: int
) -> Iterator[Figure]:
    gradients = turns.rng.normal(size=(turns.batch, dim)).astype(np.float32)
    iterations = np.ones(turns.batch, np.int64)

    def apply(rows: np.ndarray) -> None:
        count = len(rows)
        table.apply(ids[rows], gradients[:count], 0.01, iterations[:count])

    def speed() -> float:
        return turns.batch / float(np.median(turns.seconds(apply))) / _MILLION

    yield Figure("push of adagrad", speed(), "M rows/s")
    began = time.perf_counter()
    table.end_snapshot(table.begin_snapshot(1))
    yield Figure("begin a snapshot", 1e3 * (time.perf_counter() - began), "ms", None, 100.0)
    yield Figure("push once rows are marked", speed(), "M rows/s")
    began = time.perf_counter()
    table.end_snapshot(table.begin_snapshot(2, base=1))
    yield Figure("begin an increment", 1e3 * (time.perf_counter() - began), "ms", None, 100.0)
    table.pin()
    yield Figure("push after a pin", speed(), "M rows/s")


def of_deduplication(turns: Turns) -> Figure:
    """Measure finding the distinct ids of a minibatch."""
    two = RoutingTable.initial(64, 2).partition_of_group

    def minibatch() -> np.ndarray:
        return (turns.rng.zipf(1.2, 27_000) % 1_000_000).astype(np.int64)

    seconds = turns.seconds(lambda ids: deduplicate(ids, two), draw=minibatch)
    return Figure(
        "deduplicate 27,000 ids", 1e3 * float(np.median(seconds)), "ms", less_is_better=True
    )


def measure(
    num_rows: int, dim: int, batch: int, calls: int, parts: Sequence[str] = PARTS
) -> list[Figure]:
    """Measure everything, or some parts."""
    turns = Turns(num_rows, batch, calls)
    # Distinct, without sorting 100 million numbers: what multiplies by an odd number is.
    ids = (np.arange(num_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    measures: dict[str, Callable[[], list[Figure]]] = {
        "index": lambda: of_index(turns, ids),
        "rows": lambda: of_rows(turns, num_rows, dim),
        "growth": lambda: of_growth(turns, ids, dim),
        "deduplication": lambda: [of_deduplication(turns)],
    }
    return [figure for name in PARTS if name in parts for figure in measures[name]()]


def most_rows(dim: int, parts: Sequence[str] = PARTS) -> int:
    """Return how many rows there is memory for."""
    widest = max(config.num_slots for config in OPTIMIZERS.values())
    num_slots = widest if "rows" in parts else OPTIMIZERS["adagrad"].num_slots
    row_bytes = 4 * dim * (1 + num_slots) + _OTHER_BYTES
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(int(line.split()[1]) * 1024 * _SHARE_OF_MEMORY / row_bytes)
    return ROWS


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, rounds=51)
    parser.add_argument("--rows", type=int, default=ROWS, help="of the tables, if there is memory")
    parser.add_argument("--dim", type=int, default=16, help="weights of a row")
    parser.add_argument("--batch", type=int, default=10_000, help="rows of one call")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure")
    given = parser.parse_args(words)
    parts = given.only.split(",")
    for unknown in set(parts) - set(PARTS):
        parser.error(f"--only: there is no '{unknown}'; there are {', '.join(PARTS)}")
    rows, batch, calls = given.rows, given.batch, given.rounds
    if given.quick:
        rows, batch, calls = QUICK_ROWS, 1000, 3
    rows = min(rows, most_rows(given.dim, parts))
    figures = measure(rows, given.dim, batch, calls, parts)
    sizes = {"rows": rows, "dim": given.dim, "batch": batch}
    return finish(given, f"{rows:,} rows of {given.dim}", figures, **sizes)


if __name__ == "__main__":
    raise SystemExit(main())
