"""Rows per second of the parameter server's kernels: one core, random rows, medians.

Every measurement takes other random ids, so that a large table's rows come from memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from elasticdl.ps import kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.id_index import IdIndex
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig, apply_rows
from elasticdl.ps.routing import deduplicate
from elasticdl.ps.routing_table import RoutingTable

_OPTIMIZERS = {
    "sgd": OptimizerConfig("sgd"),
    "sgd, momentum": OptimizerConfig("sgd", momentum=0.9),
    "adagrad": OptimizerConfig("adagrad"),
    "adam": OptimizerConfig("adam"),
    "adamw": OptimizerConfig("adamw", weight_decay=0.004),
    "rmsprop": OptimizerConfig("rmsprop"),
    "ftrl": OptimizerConfig("ftrl"),
    "nadam": OptimizerConfig("nadam"),
    "lion": OptimizerConfig("lion"),
}


def measure(num_rows: int, dim: int, batch: int, repeats: int) -> dict[str, float]:
    """Return millions of ids or rows per second by name, and a few times in milliseconds."""
    rng = np.random.default_rng(0)
    results: dict[str, float] = {}

    def median_s(work: Callable[[np.ndarray], Any], draw: Callable[[], np.ndarray]) -> float:
        seconds = []
        for _ in range(repeats + 1):
            argument = draw()
            start = time.perf_counter()
            work(argument)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])

    def rows() -> np.ndarray:
        return rng.choice(num_rows, batch, replace=False)

    ids = rng.choice(1 << 62, num_rows, replace=False)
    index = IdIndex()
    index.reserve(num_rows)
    index.insert(ids, 0, np.empty(num_rows, np.int64))
    found = median_s(index.find, lambda: ids[rows()])
    results["find, M ids/s"] = batch / found / 1e6

    gradients = rng.normal(size=(batch, dim)).astype(np.float32)
    iterations = np.ones(batch, np.int64)
    out = np.empty((batch, dim), np.float32)
    for name, config in _OPTIMIZERS.items():
        arena = Arena(np.float32, dim * (1 + config.num_slots))
        arena.reserve(num_rows)
        storage = arena.rows[:num_rows]
        storage[:] = 0.1
        if name == "adagrad":
            gather = median_s(lambda r, s=storage: kernels.gather_rows(s, r, out), rows)  # type: ignore[misc]
            results["gather, M rows/s"] = batch / gather / 1e6
        update = median_s(
            lambda r, c=config, s=storage: apply_rows(c, s, r, gradients, 0.01, iterations),  # type: ignore[misc]
            rows,
        )
        results[f"{name}, M rows/s"] = batch / update / 1e6

    def minibatch() -> np.ndarray:
        return (rng.zipf(1.2, 27_000) % 1_000_000).astype(np.int64)

    two = RoutingTable.initial(64, 2).partition_of_group
    results["deduplicate 27,000 ids, ms"] = 1e3 * median_s(lambda i: deduplicate(i, two), minibatch)

    initializer = RowInitializer("uniform", 1, -0.05, 0.05)
    table = EmbeddingTable("t", dim, _OPTIMIZERS["adagrad"], initializer)
    seconds = []
    for first in range(0, num_rows, batch):
        start = time.perf_counter()
        table.reserve(ids[first : first + batch])
        seconds.append(time.perf_counter() - start)
    results["create, M rows/s"] = num_rows / sum(seconds) / 1e6
    results[f"longest pause creating {batch:,} rows, ms"] = 1e3 * max(seconds)
    results["bytes a row, index included"] = table.num_bytes / num_rows

    def apply(some: np.ndarray) -> None:
        table.apply(ids[some], gradients, 0.01, iterations)

    results["push of adagrad, M rows/s"] = batch / median_s(apply, rows) / 1e6
    start = time.perf_counter()
    table.end_snapshot(table.begin_snapshot(1))
    results["begin a snapshot, ms"] = 1e3 * (time.perf_counter() - start)
    results["  then rows are marked, M rows/s"] = batch / median_s(apply, rows) / 1e6
    start = time.perf_counter()
    table.end_snapshot(table.begin_snapshot(2, base=1))
    results["begin an increment, ms"] = 1e3 * (time.perf_counter() - start)
    table.pin()
    results["  first after a pin, M rows/s"] = batch / median_s(apply, rows) / 1e6
    for first in range(0, num_rows, batch):
        apply(np.arange(first, first + batch) % num_rows)
    results["  later, pinned, M rows/s"] = batch / median_s(apply, rows) / 1e6
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the tables")
    parser.add_argument("--dim", type=int, default=16, help="weights of a row")
    parser.add_argument("--batch", type=int, default=10_000, help="rows of one call")
    parser.add_argument("--repeats", type=int, default=51, help="calls measured; medians count")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    results = measure(arguments.rows, arguments.dim, arguments.batch, arguments.repeats)
    if arguments.json:
        print(json.dumps({"machine": describe_machine(), "results": results}, indent=2))
        return
    table = Table(title=f"{arguments.rows:,} rows of {arguments.dim}, one core")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in results.items():
        table.add_row(name, f"{value:,.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
