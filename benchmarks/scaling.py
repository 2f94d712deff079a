"""What a job costs with 1, 2 and 4 workers and as many parameter servers, and what N would need.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --model=mnist --workers=1,2 --ps=1,2 --json=output/scaling.json

Each pair is a whole job of `elasticdl train`, as `benchmarks.peers` runs them. Where there are as
many cores, each worker and each parameter server has one of its own; else all share them, and what
counts is the processor time of each role. From it follows what a minibatch costs, and from that
what N workers need (`benchmarks.needs`), which is compared with the speeds that were measured, and
with a simulated cluster of N workers around the real ledger and membership.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.job_process import end_jobs_on_sigterm
from benchmarks.machine import describe_machine
from benchmarks.needs import MOST_BUSY, Costs, Line, Traffic, fit, most_workers, needs, simulate
from benchmarks.peers import job
from benchmarks.peers.contestant import Request
from benchmarks.peers.workloads import WORKLOADS

SIMULATED = (1, 2, 4, 16, 64, 256, 1024)
_SIMULATED_S = 120.0
_COUNTED_MINIBATCHES = 8


def measure(request: Request) -> dict[str, Any]:
    """Run one job; return what it did and what each role used for it."""
    cores = job.Cores.apart(request.num_workers, request.num_ps)
    found = job.measure(request, cores=cores)
    size = WORKLOADS[request.workload].minibatch_size
    return {
        "workers": request.num_workers,
        "ps": request.num_ps,
        "is_pinned": cores is not None,
        "samples_per_s": found.samples_per_s,
        "seconds": found.seconds,
        "minibatches": found.samples / size,
        "cpu_seconds": found.cpu_seconds,
        "load": os.getloadavg()[0],
    }


def costs_of(model: str, runs: Sequence[dict[str, Any]], traffic: Traffic) -> Costs:
    """Return what a minibatch costs, from all runs."""
    workload = WORKLOADS[model]
    minibatches, partitions, seconds = (
        np.array([run[name] for run in runs], float) for name in ("minibatches", "ps", "seconds")
    )
    instances = partitions + [run["workers"] for run in runs]
    leases = minibatches / workload.minibatches_per_task
    used = {role: [run["cpu_seconds"][role] for run in runs] for role in ("worker", "ps", "master")}
    worker = fit([minibatches, minibatches * partitions], used["worker"])
    base, each, ps_alive = fit(
        [minibatches, minibatches * partitions, partitions * seconds], used["ps"]
    )
    lease_s, alive, master = fit([leases, instances * seconds, seconds], used["master"])
    return Costs(
        workload.minibatch_size,
        workload.minibatch_size * workload.minibatches_per_task,
        Line(*worker),
        Line(base, each),
        ps_alive,
        lease_s,
        alive,
        master,
        traffic,
    )


def traffic_of(model: str, directory: Path, staleness: int) -> Traffic:
    """Return what a minibatch of a model moves in a job; imports TensorFlow."""
    from elasticdl.data.recordio import read_range
    from elasticdl.model.element_spec import element_spec
    from elasticdl.model.mode import Mode
    from elasticdl.worker.pipeline import Minibatch, TaskPipeline
    from elasticdl.worker.stream import DenseUse
    from elasticdl.worker.two_phase import TwoPhaseModel

    workload = WORKLOADS[model]
    contract, size = workload.contract(), workload.minibatch_size
    spec = element_spec(contract, Mode.TRAINING)
    split = TwoPhaseModel(contract, spec.features, spec.labels, 0)
    tables = split.table_definitions
    pipeline = TaskPipeline(contract, Mode.TRAINING, size, split.collect if tables else None)
    records = list(read_range(str(directory / "train.recordio"), 0, _COUNTED_MINIBATCHES * size))
    pipeline.put(0, records)
    pipeline.close()
    minibatches = [one for one in pipeline if isinstance(one, Minibatch)]
    pipeline.release()
    distinct = [
        float(np.mean([len(np.unique(one.ids[position])) for one in minibatches]))
        for position in range(len(tables))
    ]
    return Traffic(
        split.num_dense,
        tuple((count, table.dim) for count, table in zip(distinct, tables, strict=True)),
        int(DenseUse.within(staleness).minibatches),
    )


def compare(costs: Costs, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each run's speed beside what the model says of as many workers and cores."""
    return [
        {
            "workers": run["workers"],
            "ps": run["ps"],
            "measured": run["samples_per_s"],
            "used_cores": sum(run["cpu_seconds"].values()) / run["seconds"],
            "model": costs.samples_per_s(
                run["workers"], run["ps"], sum(run["cpu_seconds"].values()) / run["seconds"]
            ),
        }
        for run in runs
    ]


def extrapolate(costs: Costs) -> list[dict[str, Any]]:
    """Return what many workers need, and what as many do in the simulator."""
    each = costs.minibatch_size / costs.worker.at(1)
    found = []
    for workers in SIMULATED:
        needed = needs(costs, workers, each)
        simulated = simulate(costs, workers, each, _SIMULATED_S)
        found.append({**asdict(needed), "simulated": asdict(simulated)})
    return found


def show(result: dict[str, Any]) -> None:
    """Print the result."""
    machine, console = result["machine"], Console(width=120)
    table = Table(
        title=f"{result['model']}, {result['seconds']:.0f} s each: {machine['cpu']}, "
        f"{machine['cores']} cores",
        title_justify="left",
    )
    for column in ("workers", "ps", "a core each", "load", "samples/s", "of the model's"):
        table.add_column(column, justify="right")
    for role in ("worker", "ps", "master"):
        table.add_column(f"{role}, CPU s/M", justify="right")
    size = result["costs"]["minibatch_size"]
    for run, compared in zip(result["runs"], result["compared"], strict=True):
        million = run["minibatches"] * size / 1e6
        table.add_row(
            *(str(run[name]) for name in ("workers", "ps")),
            "yes" if run["is_pinned"] else "no",
            f"{run['load']:.1f}",
            f"{run['samples_per_s']:,.0f}",
            f"{compared['measured'] / compared['model']:.2f}",
            *(f"{run['cpu_seconds'][role] / million:.1f}" for role in ("worker", "ps", "master")),
        )
    console.print(table)
    costs = result["costs"]
    worker, ps, traffic = costs["worker"], costs["ps"], costs["traffic"]
    console.print(
        f"a minibatch of {size:,} costs a worker {1e3 * worker['base']:.2f} + "
        f"{1e3 * worker['each']:.2f} P ms of a core, P parameter servers together "
        f"{1e3 * ps['base']:.2f} + {1e3 * ps['each']:.2f} P ms, and each {costs['ps_alive']:.3f} "
        f"cores as long as it lives; the master {1e3 * costs['lease_s']:.1f} ms a lease, "
        f"{costs['alive']:.4f} cores for each instance and {costs['master']:.3f} for itself; "
        "a minibatch pulls "
        f"{traffic['pulled_bytes'] / 1024:,.0f} KiB and pushes "
        f"{traffic['pushed_bytes'] / 1024:,.0f} KiB"
    )
    console.print(_needs_table(result["needs"]))
    console.print(
        f"parameter servers, each at most {MOST_BUSY:.0%} busy, can serve "
        f"{result['most_workers']:,} such workers"
    )


def _needs_table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="what N workers of a core each need; in the simulator as many do",
        title_justify="left",
    )
    for column in (
        "workers",
        "samples/s",
        "simulated",
        "ps",
        "ps cores",
        "leases/s",
        "simulated",
        "master cores",
        "MB/s a worker",
        "MB/s a ps",
    ):
        table.add_column(column, justify="right")
    for each in found:
        simulated = each["simulated"]
        table.add_row(
            f"{each['workers']:,}",
            f"{each['samples_per_s']:,.0f}",
            f"{simulated['samples_per_s']:,.0f}",
            "none" if each["partitions"] is None else str(each["partitions"]),
            f"{each['ps_cores']:.1f}",
            f"{each['leases_per_s']:,.1f}",
            f"{simulated['leases_per_s']:,.1f}",
            f"{each['master_cores']:.2f}",
            f"{each['worker_bytes_per_s'] / 1e6:,.0f}",
            f"{each['ps_bytes_per_s'] / 1e6:,.0f}",
        )
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=WORKLOADS, default="deepfm")
    parser.add_argument("--workers", default="1,2,4", metavar="N,…")
    parser.add_argument("--ps", default="1,2,4", metavar="N,…")
    parser.add_argument("--rounds", type=int, default=1, help="how often each has its turn")
    parser.add_argument("--seconds", type=float, default=8.0, help="of training that count")
    parser.add_argument("--warm_up", type=float, default=4.0, help="seconds of training before")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--runs", type=Path, metavar="FILE", help="of an earlier --json, measured")
    given = parser.parse_args(words)
    pairs = [
        tuple(int(number) for number in pair)
        for pair in itertools.product(given.workers.split(","), given.ps.split(","))
    ]
    directory = WORKLOADS[given.model].prepare(given.model)
    earlier = json.loads(given.runs.read_text()) if given.runs else {"runs": []}
    runs = earlier["runs"]
    for _, (workers, ps) in itertools.product(range(0 if runs else given.rounds), pairs):
        request = Request(
            given.model,
            str(directory),
            "ready",
            given.warm_up,
            given.seconds,
            num_workers=workers,
            num_ps=ps,
        )
        runs.append(measure(request))
        speed = f"{runs[-1]['samples_per_s']:,.0f} samples/s"
        print(f"{workers} workers, {ps} parameter servers: {speed}", file=sys.stderr, flush=True)
    costs = costs_of(given.model, runs, traffic_of(given.model, directory, Request.staleness))
    traffic = costs.traffic
    result = {
        "machine": describe_machine(),
        "model": given.model,
        "seconds": float(np.median([run["seconds"] for run in runs])),
        "runs": runs,
        "costs": {
            **asdict(costs),
            "traffic": {
                **asdict(traffic),
                "pulled_bytes": traffic.pulled_bytes,
                "pushed_bytes": traffic.pushed_bytes,
            },
        },
        "compared": compare(costs, runs),
        "needs": extrapolate(costs),
        "most_workers": most_workers(costs),
    }
    show(result)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    end_jobs_on_sigterm()
    raise SystemExit(main())
