"""How long a local job takes from its command to its first step, and what of it is importing.

A job whose tasks are of one minibatch is started as people start one, and its files tell when what
had happened, in seconds since the command; it ends after a few steps. It takes turns with a process
that does nothing but ``import tensorflow``, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.job_process import JobProcess, end_jobs_on_sigterm
from benchmarks.machine import describe_machine
from benchmarks.workloads import MODEL_ZOO, WORKLOADS
from elasticdl.job_spec import JOB_FILE
from elasticdl.master.journal import Entry, read_journal

IMPORT = "import_tensorflow"
LONGEST_S = 10.0  # From the command to the first step.
MILESTONES = {
    "check_passed": "the model is checked",
    "job_began": "the master's journal begins",
    "ps_ready": "all parameter servers are ready",
    "initialized": "they have the initial values",
    "first_granted": "a worker is given its first minibatch",
    "first_done": "it is trained, and applied by all",
}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    model: str
    num_workers: int
    num_ps: int
    runs: int
    max_steps: int = 8


def cpu_seconds() -> float:
    """Seconds of processor time that all processes took which this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_import() -> dict[str, float]:
    """Import TensorFlow, in a process of its own."""
    before, began = cpu_seconds(), time.perf_counter()
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    subprocess.run([sys.executable, "-c", "import tensorflow"], env=environment, check=True)
    return {IMPORT: time.perf_counter() - began, f"{IMPORT}_cpu": cpu_seconds() - before}


def run_job(settings: Settings, pattern: str) -> dict[str, float]:
    """Start a job; return when what had happened, and the processor time of the whole of it."""
    workload = WORKLOADS[settings.model]
    before = cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="elasticdl-start-") as place:
        began = time.time()
        job = JobProcess(
            Path(place),
            {
                "model_zoo": MODEL_ZOO,
                "model_def": workload.model_def,
                "params": workload.params_text,
                "data": pattern,
                "minibatch_size": workload.minibatch_size,
                "records_per_task": workload.minibatch_size,
                "max_steps": settings.max_steps,
                "num_workers": settings.num_workers,
                "num_ps": settings.num_ps,
            },
        )
        try:
            job.result()
        finally:
            job.end()
        found = milestones(job.directory)
    seconds = {name: at - began for name, at in found.items()}
    return {**seconds, "job_cpu": cpu_seconds() - before}


def milestones(job_dir: Path) -> dict[str, float]:
    """When each of `MILESTONES` was there, in seconds since the epoch, by a job's files."""
    entries = list(read_journal(job_dir))

    def first(kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda body: True) -> float:
        return next(_times(entries, kind, wanted))

    def is_training(body: dict[str, Any]) -> bool:
        return body["kind"] == "TRAINING"

    return {
        "check_passed": (job_dir / JOB_FILE).stat().st_mtime,
        "job_began": first("job"),
        "ps_ready": max(_times(entries, "registered", lambda body: body["role"] == "ps")),
        "initialized": first("done", lambda body: body["kind"] == "INITIALIZE"),
        "first_granted": first("granted", is_training),
        "first_done": first("done", is_training),
    }


def _times(
    entries: list[Entry], kind: str, wanted: Callable[[dict[str, Any]], bool]
) -> Iterator[float]:
    return (one.time for one in entries if one.kind == kind and wanted(one.body))


def measure(settings: Settings) -> dict[str, Any]:
    """Run both by turns; return medians, and all figures."""
    directory = WORKLOADS[settings.model].prepare(settings.model)
    pattern = str(directory / "train" / "*.recordio")
    runs = [{**run_import(), **run_job(settings, pattern)} for _ in range(settings.runs)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {
        "machine": describe_machine(),
        "settings": asdict(settings),
        "medians": medians,
        "start_s": medians["first_done"],
        "start_in_imports": medians["first_done"] / medians[IMPORT],
        "runs": runs,
        "figures": {
            each.name: each.as_dict()
            for each in (
                Figure("command to first task", medians["first_done"], "s", at_most=LONGEST_S),
                Figure("the whole job", medians["job_cpu"], "CPU s", less_is_better=True),
            )
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    settings, machine, medians = result["settings"], result["machine"], result["medians"]
    runs = result["runs"]
    table = Table(
        title=f"{settings['model']}, {settings['num_workers']} workers, {settings['num_ps']} "
        f"parameter servers, median of {settings['runs']}: "
        f"{machine['cpu']}, {machine['cores']} cores",
        title_justify="left",
    )
    table.add_column("")
    for column in ("s since the command", "least", "most"):
        table.add_column(column, justify="right")
    for name, text in {IMPORT: "import tensorflow, and nothing else", **MILESTONES}.items():
        each = [run[name] for run in runs]
        table.add_row(text, *(f"{one:.1f}" for one in (medians[name], min(each), max(each))))
    console = Console(width=120)
    console.print(table)
    console.print(
        f"first step / import: {result['start_in_imports']:.1f}; processor time: import "
        f"{medians[f'{IMPORT}_cpu']:.1f} s, whole job of {settings['max_steps']} steps "
        f"{medians['job_cpu']:.1f} s"
    )


def main() -> None:
    """Run the command line."""
    end_jobs_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=WORKLOADS, default="mnist")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_ps", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="of both, by turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args()
    result = measure(Settings(given.model, given.num_workers, given.num_ps, given.runs))
    show(result)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
