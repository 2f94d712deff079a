"""Is a job's model as good as that of `fit` after the same samples? DeepFM, several seeds.

All train on the same minibatches once, and are measured by AUC on the same held-out ones. A step of
a sync job is a minibatch of each of its two workers, so theirs have half the records. What counts
as the same is what `benchmarks.quality` says.
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
_NUM_WORKERS = 2


def of_job(request: Request, consistency: str, seed: int) -> float:
    """Train by a job of two workers; return the AUC on the held-out minibatches."""
    given = {
        **job.options(request, consistency),
        "num_epochs": 1,
        "seed": seed,
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
    request = Request("deepfm", str(directory), "ready", 0, 0, num_workers=_NUM_WORKERS)
    layout = Layout.load(directory)
    ways: dict[str, Callable[[int], float]] = {
        **{f"ours_{one}": partial(of_job, request, one) for one in CONSISTENCIES},
        **{f"{one}_fit": partial(of_fit, request, one) for one in KERAS},
    }
    reached: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(max(LEAST_SEEDS, seeds)):
        for name, train in ways.items():
            reached[name].append(train(seed))
            print(f"seed {seed}, {name}: AUC {reached[name][-1]:.4f}", file=sys.stderr, flush=True)
    num_test = (directory / "test.minibatches").stat().st_size // layout.minibatch_bytes
    records = num_test * layout.minibatch_size
    return {
        "samples": layout.num_minibatches * layout.minibatch_size,
        "test_records": records,
        "auc": reached,
        "next_to_keras_fit": {
            name: Comparison("auc", values, reached["keras_fit"], records).as_dict()
            for name, values in reached.items()
            if name != "keras_fit"
        },
    }


def is_met(result: dict[str, Any]) -> bool:
    """Whether no job's model is worse."""
    compared = result["next_to_keras_fit"]
    return all(compared[f"ours_{one}"]["verdict"] != "worse" for one in CONSISTENCIES)


def table(result: dict[str, Any]) -> Table:
    """The result, for people."""
    shown = Table(
        title=f"AUC on {result['test_records']:,} held-out records after {result['samples']:,} "
        f"samples, mean of {len(result['auc']['keras_fit'])} seeds",
        title_justify="left",
    )
    shown.add_column("")
    for column in ("AUC", "less Keras 3 fit's", "noise"):
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
