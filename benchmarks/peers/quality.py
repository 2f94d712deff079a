"""Is a job's model as good as that of `fit` after the same samples? DeepFM, several seeds.

All train on the same minibatches once, and are measured by AUC on the same held-out ones. A step of
a sync job is a minibatch of each of its two workers, so theirs have half the records. What counts
as the same is what `benchmarks.quality` says.

And does ``--wire_dtype=bfloat16`` cost quality? Jobs with it are trained beside jobs without, with
the same seeds; the means must be within `MOST_LOST`. In sync mode both differ by the rounding only.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.job_process import JobProcess
from benchmarks.peers import contestant, job
from benchmarks.peers.contestant import Request
from benchmarks.peers.data import Layout
from benchmarks.quality import CONSISTENCIES, Comparison

KERAS = ("keras", "tf_keras")
LEAST_SEEDS = 2
WIRE_DTYPES = ("float32", "bfloat16")
MOST_LOST = 0.001
_NUM_WORKERS = 2


def of_job(
    request: Request, consistency: str, seed: int, wire_dtype: str = WIRE_DTYPES[0]
) -> float:
    """Train by a job of two workers; return the AUC on the held-out minibatches."""
    given = {
        **job.options(request, consistency),
        "num_epochs": 1,
        "seed": seed,
        "wire_dtype": wire_dtype,
        "validation_data": request.place / "test.arrow",
    }
    if consistency == "sync":
        given["minibatch_size"] = Layout.load(request.place).minibatch_size // _NUM_WORKERS
    with tempfile.TemporaryDirectory(prefix="elasticdl-peers-") as place:
        running = JobProcess(Path(place), given)
        try:
            return running.result()["metrics"]["auc"]
        finally:
            running.end()


def of_fit(request: Request, keras: str, seed: int) -> float:
    """Train by `fit`; return the AUC on the held-out minibatches."""
    return contestant.ask("benchmarks.peers.fit", request, keras, str(seed))["auc"]


def compare(directory: Path, seeds: int) -> dict[str, Any]:
    """Train all ways with every seed; return what was reached, and each job next to Keras 3."""
    request = _request(directory)
    ways: dict[str, Callable[[int], float]] = {
        **{f"ours_{one}": partial(of_job, request, one) for one in CONSISTENCIES},
        **{f"{one}_fit": partial(of_fit, request, one) for one in KERAS},
    }
    reached, sizes = _reached(ways, directory, seeds)
    return {
        **sizes,
        "auc": reached,
        "next_to_keras_fit": {
            name: Comparison("auc", values, reached["keras_fit"], sizes["test_records"]).as_dict()
            for name, values in reached.items()
            if name != "keras_fit"
        },
    }


def compare_wire(directory: Path, seeds: int) -> dict[str, Any]:
    """Train with both types on the wire; return what was reached, and what bfloat16 changes."""
    request = _request(directory)
    ways: dict[str, Callable[[int], float]] = {
        f"{one}_{dtype}": partial(of_job, request, one, wire_dtype=dtype)
        for one in CONSISTENCIES
        for dtype in WIRE_DTYPES
    }
    reached, sizes = _reached(ways, directory, seeds)
    means = {name: statistics.fmean(values) for name, values in reached.items()}
    changes = {one: means[f"{one}_bfloat16"] - means[f"{one}_float32"] for one in CONSISTENCIES}
    return {**sizes, "auc": reached, "changes": changes}


def _request(directory: Path) -> Request:
    return Request("deepfm", str(directory), "ready", 0, 0, num_workers=_NUM_WORKERS)


def _reached(
    ways: dict[str, Callable[[int], float]], directory: Path, seeds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Train each way with every seed; return the AUCs, and how much was trained and measured on."""
    reached: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(max(LEAST_SEEDS, seeds)):
        for name, train in ways.items():
            reached[name].append(train(seed))
            print(f"seed {seed}, {name}: AUC {reached[name][-1]:.4f}", file=sys.stderr, flush=True)
    layout = Layout.load(directory)
    num_test = (directory / "test.minibatches").stat().st_size // layout.minibatch_bytes
    return reached, {
        "samples": layout.num_minibatches * layout.minibatch_size,
        "test_records": num_test * layout.minibatch_size,
    }


def is_met(result: dict[str, Any]) -> bool:
    """Whether no job's model is worse."""
    compared = result["next_to_keras_fit"]
    return all(compared[f"ours_{one}"]["verdict"] != "worse" for one in CONSISTENCIES)


def is_wire_met(result: dict[str, Any]) -> bool:
    """Whether bfloat16 changes nothing that matters."""
    return all(abs(change) <= MOST_LOST for change in result["changes"].values())


def wire_table(result: dict[str, Any]) -> Table:
    """What bfloat16 on the wire changes, for people."""
    shown = _table(result)
    for column in ("lowest", "highest", "bfloat16 less float32"):
        shown.add_column(column, justify="right")
    for name, values in result["auc"].items():
        consistency, _, dtype = name.partition("_")
        change = f"{result['changes'][consistency]:+.4f}" if dtype != WIRE_DTYPES[0] else ""
        figures = [statistics.fmean(values), min(values), max(values)]
        shown.add_row(name, *(f"{one:.4f}" for one in figures), change)
    return shown


def _table(result: dict[str, Any]) -> Table:
    num_seeds = len(next(iter(result["auc"].values())))
    shown = Table(
        title=f"AUC on {result['test_records']:,} held-out records after {result['samples']:,} "
        f"samples, mean of {num_seeds} seeds",
        title_justify="left",
    )
    shown.add_column("")
    shown.add_column("AUC", justify="right")
    return shown


def table(result: dict[str, Any]) -> Table:
    """The result, for people."""
    shown = _table(result)
    for column in ("less Keras 3 fit's", "noise"):
        shown.add_column(column, justify="right")
    shown.add_column("verdict")
    for name, values in result["auc"].items():
        compared = result["next_to_keras_fit"].get(name)
        words = (
            ("", "", "")
            if compared is None
            else (
                f"{compared['difference']:+.4f}",
                f"{compared['noise']:.4f}",
                compared["verdict"],
            )
        )
        shown.add_row(name, f"{statistics.fmean(values):.4f}", *words)
    return shown
