"""Samples per second of a local job and of Keras's ``model.fit``: same model, same data, one run.

A job is run in async and in sync mode. They take turns with ``fit``, so that whatever else the
machine does falls on all; the medians count.

*Training* of a job is from the first task granted, to workers that have built the model, to the
last one closed: reading the records from the files and tracing the steps are in it. *Training* of
``fit`` is the call of ``model.fit`` alone, on records that are in memory already: tracing its step
is in it. *Whole* has importing TensorFlow and building the model in it: of a job it is the call of
``elasticdl.train``, with checking the model, starting processes and writing what was trained; of
``fit`` it is its process from start to end, with reading the records.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import elasticdl
from benchmarks.machine import describe_machine
from benchmarks.workloads import MODEL_ZOO, WORKLOADS

COLUMNS = (
    "training: of the job, first task granted to last one closed, reading and tracing included;\n"
    "          of fit, model.fit alone, records in memory, tracing included\n"
    "whole:    of the job, the call of elasticdl.train: model checked, processes started, model "
    "written;\n          of fit, its process from start to end, records read"
)


@dataclass(frozen=True)
class Run:
    """One training by one of the two.

    Attributes:
      records: trained on, over all epochs.
      training_seconds: training itself, as this module's first lines define it.
      whole_seconds: from nothing to the end.
    """

    records: int
    training_seconds: float
    whole_seconds: float


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    model: str
    minibatch_size: int
    num_epochs: int
    num_workers: int
    num_ps: int
    runs: int


def run_job(settings: Settings, pattern: str, consistency: str = "async") -> Run:
    """Train with a local job."""
    workload = WORKLOADS[settings.model]
    with tempfile.TemporaryDirectory(prefix="elasticdl-throughput-") as directory:
        started = time.perf_counter()
        result = elasticdl.train(
            model_zoo=MODEL_ZOO,
            model_def=workload.model_def,
            params=workload.params_text,
            data=pattern,
            output=str(Path(directory) / "trained_model"),
            job_dir=str(Path(directory) / "job"),
            minibatch_size=settings.minibatch_size,
            num_epochs=settings.num_epochs,
            num_workers=settings.num_workers,
            num_ps=settings.num_ps,
            consistency=consistency,
            quiet=True,
        )
        whole_seconds = time.perf_counter() - started
    return Run(result.audit["records_expected"], result.training_seconds, whole_seconds)


def run_fit(settings: Settings) -> Run:
    """Train with ``model.fit``, in a process of its own as a job's are."""
    command = [sys.executable, "-m", "benchmarks.fit", f"--model={settings.model}"]
    command += [
        f"--minibatch_size={settings.minibatch_size}",
        f"--num_epochs={settings.num_epochs}",
    ]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    started = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole_seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr}")
    result = json.loads(process.stdout.splitlines()[-1])
    return Run(result["records"], result["training_seconds"], whole_seconds)


def summarize(runs: list[Run]) -> dict[str, float]:
    """Return the medians of samples per second, of training and of the whole."""
    return {
        "samples_per_s": statistics.median(run.records / run.training_seconds for run in runs),
        "whole_samples_per_s": statistics.median(run.records / run.whole_seconds for run in runs),
        "training_seconds": statistics.median(run.training_seconds for run in runs),
        "whole_seconds": statistics.median(run.whole_seconds for run in runs),
    }


def measure(settings: Settings) -> dict[str, Any]:
    """Run all by turns and summarize."""
    directory = WORKLOADS[settings.model].prepare(settings.model)
    pattern = str(directory / "train" / "*.recordio")
    jobs, in_sync, fits = [], [], []
    for _ in range(settings.runs):
        jobs.append(run_job(settings, pattern))
        in_sync.append(run_job(settings, pattern, "sync"))
        fits.append(run_fit(settings))
    job, sync, fit = summarize(jobs), summarize(in_sync), summarize(fits)
    return {
        "machine": describe_machine(),
        "settings": asdict(settings),
        "ours_async_samples_per_s": job["samples_per_s"],
        "ours_sync_samples_per_s": sync["samples_per_s"],
        "keras3_fit_samples_per_s": fit["samples_per_s"],
        "ratio": job["samples_per_s"] / fit["samples_per_s"],
        "whole_ratio": job["whole_samples_per_s"] / fit["whole_samples_per_s"],
        "job": {**job, "runs": [asdict(run) for run in jobs]},
        "sync": {**sync, "runs": [asdict(run) for run in in_sync]},
        "fit": {**fit, "runs": [asdict(run) for run in fits]},
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    settings, machine = result["settings"], result["machine"]
    table = Table(
        title=f"{settings['model']}, minibatches of {settings['minibatch_size']}, "
        f"median of {settings['runs']}: {machine['cpu']}, {machine['cores']} cores",
        title_justify="left",
    )
    table.add_column("")
    for column in ("training, samples/s", "training, s", "whole, samples/s", "whole, s"):
        table.add_column(column, justify="right")
    job_name = f"job: {settings['num_workers']} workers, {settings['num_ps']} parameter servers"
    rows = (
        (job_name, "job"),
        ("the same, --consistency=sync", "sync"),
        ("Keras 3 model.fit, one process", "fit"),
    )
    for name, key in rows:
        row = result[key]
        table.add_row(
            name,
            f"{row['samples_per_s']:,.0f}",
            f"{row['training_seconds']:.1f}",
            f"{row['whole_samples_per_s']:,.0f}",
            f"{row['whole_seconds']:.1f}",
        )
    table.add_row("job / fit", f"{result['ratio']:.2f}", "", f"{result['whole_ratio']:.2f}", "")
    console = Console(width=120)
    console.print(table)
    console.print(COLUMNS)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=WORKLOADS, default="mnist")
    parser.add_argument("--minibatch_size", type=int)
    parser.add_argument("--num_epochs", type=int)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_ps", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args()
    workload = WORKLOADS[given.model]
    result = measure(
        Settings(
            model=given.model,
            minibatch_size=given.minibatch_size or workload.minibatch_size,
            num_epochs=given.num_epochs or workload.num_epochs,
            num_workers=given.num_workers,
            num_ps=given.num_ps,
            runs=given.runs,
        )
    )
    show(result)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
