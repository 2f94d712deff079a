"""The master under a large cluster: what its decisions cost, and that nothing is lost.

First the core alone: the ledger and the membership are the real ones; workers, parameter servers
and time are simulated (``benchmarks/simulated_cluster.py``). What messages and the journal cost is
no part of it. Fails where a record is lost or counted twice, or the job does not end.

Then a real master answers real workers through gRPC (``benchmarks/leases.py``).
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import leases
from benchmarks.figures import Figure
from benchmarks.figures import show as show_figures
from benchmarks.machine import describe_machine
from benchmarks.simulated_cluster import Settings, SimulatedCluster

KIB_PER_MIB = 1024


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB


def measure(settings: Settings) -> dict[str, Any]:
    """Simulate a job and return what it took.

    Raises:
      AssertionError: a record was lost or counted twice, or the job did not end.
    """
    gc.collect()
    memory_mib = _peak_memory_mib()
    began = time.perf_counter()
    cluster = SimulatedCluster(settings)
    cluster.run()
    records = settings.records * settings.num_epochs
    return {
        "machine": describe_machine(),
        "settings": asdict(settings),
        "tasks": cluster.ledger.num_tasks,
        "records": records,
        "deaths": dict(cluster.deaths),
        "relaunches": cluster.membership.relaunches,
        "simulated_s": cluster.now,
        "undisturbed_s": settings.calm_s,
        "wall_s": time.perf_counter() - began,
        "core_s": cluster.core_s,
        "core_share": cluster.core_s / cluster.now,
        "events": cluster.events,
        "events_per_s": cluster.events / cluster.core_s,
        "records_granted": cluster.granted_records,
        "records_granted_per_core_s": cluster.granted_records / cluster.core_s,
        "most_waits_per_s": cluster.most_waits_per_s,
        "most_polls_per_s": cluster.most_polls_per_s,
        "checkpoints": cluster.num_checkpoints,
        "peak_memory_mib": _peak_memory_mib() - memory_mib,
        "costs": {
            name: {
                "count": cost.count,
                "mean_us": 1e6 * cost.total_s / cost.count,
                "worst_ms": 1e3 * cost.worst_s,
                "total_s": cost.total_s,
            }
            for name, cost in sorted(cluster.costs.items())
        },
    }


def figures_of(result: dict[str, Any], of_leases: list[Figure]) -> list[Figure]:
    """Return what a result says of the targets."""
    return [
        Figure("events in the core", result["events_per_s"], "1/s", at_least=100_000.0),
        Figure("memory of the simulated job", result["peak_memory_mib"], "MiB", at_most=500.0),
        *of_leases,
    ]


def show(result: dict[str, Any]) -> None:
    """Print the result."""
    settings, machine = result["settings"], result["machine"]
    table = Table(
        title=f"{settings['workers']:,} workers, {settings['partitions']} partitions, "
        f"{result['records']:,} records in {result['tasks']:,} tasks: {machine['cpu']}",
        title_justify="left",
    )
    for column in ("told", "times", "mean, µs", "worst, ms", "in all, s"):
        table.add_column(column, justify="left" if column == "told" else "right")
    for name, cost in result["costs"].items():
        table.add_row(
            name,
            f"{cost['count']:,}",
            f"{cost['mean_us']:.1f}",
            f"{cost['worst_ms']:.2f}",
            f"{cost['total_s']:.2f}",
        )
    deaths = ", ".join(f"{count:,} {how}" for how, count in result["deaths"].items()) or "none"
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{result['events']:,} events in {result['core_s']:.1f} s: "
        f"{result['events_per_s']:,.0f} events/s, "
        f"{100 * result['core_share']:.1f} % of one core over {result['simulated_s']:,.0f} "
        f"simulated seconds ({result['undisturbed_s']:,.0f} if nobody died)\n"
        f"{result['records_granted_per_core_s']:,.0f} records leased per second of the core; "
        f"most requests in a second that had to wait: {result['most_waits_per_s']:,} for a task, "
        f"{result['most_polls_per_s']:,} for a partition\n"
        f"peak memory {result['peak_memory_mib']:,.0f} MiB, the simulated workers included\n"
        f"deaths: {deaths}; {result['relaunches']:,} instances replaced; "
        f"{result['checkpoints']} checkpoints; 0 records lost, 0 counted twice",
        highlight=False,
    )


def main() -> None:
    """Run the command line: each of the settings is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Settings):
        number = float if isinstance(field.default, float) else int
        parser.add_argument(f"--{field.name}", type=number, default=field.default)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    leases.add_arguments(parser)
    given = vars(parser.parse_args())
    output: Path | None = given.pop("json")
    rounds, workers = given.pop("lease_rounds"), given.pop("lease_workers")
    mirror = given.pop("lease_mirror")
    # First: its peak of memory is of this process.
    result = measure(Settings(**given))
    show(result)
    figures = figures_of(result, leases.measure(rounds, workers, mirror) if rounds else [])
    show_figures("the master", figures)
    result["figures"] = {each.name: each.as_dict() for each in figures}
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
