"""The parameter server's kernels, next to what the memory allows: random rows, medians.

    python -m benchmarks.kernels
    python -m benchmarks.kernels --rows=100000000 --threads=8

*Of memory* is the speed of a kernel divided by that of a loop that touches an element of the same
cache lines, of rows chosen alike, and does nothing with them, in turns with the kernel
(``benchmarks/touching.py``): what is lost is computing. Every call takes other random ids, so that
a large table's rows come from memory.

A table then grows from nothing to all rows by pushes' worth of new ids; the pause is the longest
that one of them took, and memory is what the process has more then, the index of ids left out,
divided by what weights and slots alone would take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import touching
from benchmarks.figures import Figure, add_arguments, finish
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
_MILLION = 1e6
_OF_MEMORY = 0.5
_LONGEST_PAUSE_MS = 50.0
_MOST_MEMORY = 1.15
_SHARE_OF_MEMORY = 0.7

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
        self._calls = calls

    def rows(self) -> np.ndarray:
        """Draw distinct rows."""
        drawn = np.unique(self.rng.integers(0, self._num_rows, 2 * self.batch))
        self.rng.shuffle(drawn)
        return drawn[: self.batch]

    def seconds(self, *work: Work, draw: Callable[[], np.ndarray] | None = None) -> np.ndarray:
        """Return what each call of each took, ``[calls, works]``."""
        found = np.empty((self._calls + 1, len(work)))
        for call in range(self._calls + 1):
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


def of_rows(turns: Turns, num_rows: int, dim: int, threads: int) -> list[Figure]:
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
    if threads > 1:
        figures.append(_of_threads(turns, adagrad, gradients, threads))
    return figures


def _of_threads(turns: Turns, storage: np.ndarray, gradients: np.ndarray, threads: int) -> Figure:
    """Measure updates by several threads, each of rows of its own, next to one thread's."""
    config = OPTIMIZERS["adagrad"]
    iterations = np.ones(turns.batch, np.int64)

    def update(rows: np.ndarray) -> None:
        apply_rows(config, storage, rows, gradients[: len(rows)], 0.01, iterations[: len(rows)])

    with ThreadPoolExecutor(threads) as pool:

        def by_all(rows: np.ndarray) -> None:
            list(pool.map(update, np.array_split(rows, threads)))

        seconds = turns.seconds(update, by_all)
    gained = float(np.median(seconds[:, 0] / seconds[:, 1]))
    return Figure(f"adagrad, {threads} threads / one", gained)


def of_growth(turns: Turns, ids: np.ndarray, dim: int) -> list[Figure]:
    """Let a table grow to all ids, and measure what that takes."""
    config = OPTIMIZERS["adagrad"]
    initializer = RowInitializer("uniform", 1, -0.05, 0.05)
    before = _resident_bytes()
    table = EmbeddingTable("t", dim, config, initializer)
    seconds = []
    for first in range(0, len(ids), turns.batch):
        began = time.perf_counter()
        table.reserve(ids[first : first + turns.batch])
        seconds.append(time.perf_counter() - began)
    payload = len(ids) * dim * (1 + config.num_slots) * 4
    of_ids = table._directory.num_bytes
    memory = (_resident_bytes() - before - of_ids) / payload
    figures = [
        Figure("create", len(ids) / sum(seconds) / _MILLION, "M rows/s"),
        Figure("longest pause", 1e3 * max(seconds), "ms", at_most=_LONGEST_PAUSE_MS),
        Figure("a push's worth of new rows", 1e3 * statistics.median(seconds), "ms"),
        Figure("memory / weights and slots", memory, at_most=_MOST_MEMORY),
        Figure("index and ids", of_ids / len(ids), "bytes a row", less_is_better=True),
    ]
    return figures + list(_of_snapshots(turns, table, ids, dim))


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


def measure(num_rows: int, dim: int, batch: int, calls: int, threads: int) -> list[Figure]:
    """Measure everything."""
    turns = Turns(num_rows, batch, calls)
    # Distinct, without sorting 100 million numbers: what multiplies by an odd number is.
    ids = (np.arange(num_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    figures = of_index(turns, ids)
    figures += of_rows(turns, num_rows, dim, threads)
    figures += of_growth(turns, ids, dim)
    return [*figures, of_deduplication(turns)]


def most_rows(dim: int) -> int:
    """Return how many rows there is memory for."""
    row_bytes = 4 * dim * (1 + max(config.num_slots for config in OPTIMIZERS.values())) + 100
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
    parser.add_argument("--threads", type=int, default=2, help="that update at a time")
    given = parser.parse_args(words)
    rows, batch, calls = given.rows, given.batch, given.rounds
    if given.quick:
        rows, batch, calls = QUICK_ROWS, 1000, 3
    rows = min(rows, most_rows(given.dim))
    figures = measure(rows, given.dim, batch, calls, given.threads)
    sizes = {"rows": rows, "dim": given.dim, "batch": batch}
    return finish(given, f"{rows:,} rows of {given.dim}", figures, **sizes)


if __name__ == "__main__":
    raise SystemExit(main())
