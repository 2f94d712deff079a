"""How fast a local job trains again after one of its processes was killed, and what kills cost.

A job trains without end. First each role's process is killed in turn, several times:

resumed: seconds from the kill to the first task of training that is completed by all that are
needed for it: for a worker, a task that it held and another one got; for a parameter server, one
that its replacement has closed; for the master, one that its replacement knows of. Tasks that are
trained again because a parameter server lost them are tasks like any other here.
back: seconds from the kill until a task that was leased to the replaced worker is completed.

Then processes of all roles are killed at random, every so many seconds, and *goodput* is the
records counted per second over those of the same job, undisturbed.

All that is measured without warm spares and with them: the same kills, chosen by the same seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.disturbed_job import DisturbedJob, Kill
from benchmarks.goodput_plot import Panel, draw
from benchmarks.job_process import DEADLINE_S, POLL_S, end_jobs_on_sigterm
from benchmarks.machine import describe_machine
from benchmarks.workloads import MODEL_ZOO, WORKLOADS
from elasticdl.master.journal import Entry, read_journal

ROLES = ("worker", "ps", "master")
KILLS_WATCHED = 3
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
      model: among `WORKLOADS`.
      num_workers: of each job.
      num_ps: of each job.
      kills: of each role.
      secs: how long a job is watched at least.
      every_s: seconds between kills, for each pair of jobs.
      seed: chooses who is killed.
      warm_spares: of the second job of each pair.
    """

    model: str
    num_workers: int
    num_ps: int
    kills: int
    secs: float
    every_s: tuple[float, ...]
    seed: int
    warm_spares: int


@contextmanager
def training(settings: Settings, warm_spares: int) -> Iterator[DisturbedJob]:
    """A job in training; it is stopped in the end, and its directory is removed."""
    workload = WORKLOADS[settings.model]
    data = workload.prepare(settings.model) / "train" / "*.recordio"
    options = {
        "model_zoo": MODEL_ZOO,
        "model_def": workload.model_def,
        "params": workload.params_text,
        "data": data,
        "minibatch_size": workload.minibatch_size,
        "records_per_task": 8 * workload.minibatch_size,
        "num_epochs": 100_000,
        "num_workers": settings.num_workers,
        "num_ps": settings.num_ps,
        "checkpoint_secs": 10,
        "warm_spares": warm_spares,
    }
    with tempfile.TemporaryDirectory(prefix="elasticdl-recovery-") as place:
        job = DisturbedJob(Path(place), options)
        try:
            job.wait_for_records(0)
            yield job
        finally:
            job.end()


def wait_for_recovery(job: DisturbedJob) -> None:
    """Return once the journal shows the last kill's recovery whole."""
    ends = time.monotonic() + DEADLINE_S
    kill = job.kills[-1]
    names = {"resumed", "back"} if kill.role == "worker" else {"resumed"}
    while set(found := recovery_of(kill, list(read_journal(job.directory)))) < names:
        if time.monotonic() > ends:
            raise SystemExit(
                f"no recovery in {DEADLINE_S:.0f} s of: {kill}; found: {found}\n{job.said()}"
            )
        time.sleep(1.0)


def wait_for_leases(job: DisturbedJob) -> None:
    """Return once every worker that runs has been leased a task: one without loses none."""
    ends = time.monotonic() + DEADLINE_S
    while True:
        workers = {name for name in job.processes() if name.startswith("worker-")}
        leased = {
            f"worker-{entry.body['worker']}.{entry.body['incarnation']}"
            for entry in read_journal(job.directory)
            if entry.kind == "granted"
        }
        if workers and workers <= leased:
            return
        if time.monotonic() > ends:
            raise SystemExit(f"no leases of {sorted(workers - leased)}\n{job.said()}")
        time.sleep(1.0)


def recovery_of(kill: Kill, entries: Sequence[Entry]) -> dict[str, float]:
    """Return the seconds after a kill at which the journal shows training again.

    Args:
      entries: of the whole journal.
    """
    after = [entry for entry in entries if entry.time >= kill.at]
    if kill.role == "worker":
        before = [entry for entry in entries if entry.time < kill.at]
        held = _held(before, kill)
        replaced = {
            entry.body["task"]
            for entry in after
            if entry.kind == "granted"
            and entry.body["worker"] == kill.index
            and entry.body["incarnation"] > kill.incarnation
        }
        times = {
            "resumed": _first(after, lambda done: done["task"] in held),
            "back": _first(after, lambda done: done["task"] in replaced),
        }
    elif kill.role == "ps":
        lost = kill.incarnation
        times = {
            "resumed": _first(after, lambda done: done["partition_incarnations"][kill.index] > lost)
        }
    else:
        restarted = itertools.dropwhile(lambda entry: entry.kind != "master", after)
        times = {"resumed": _first(list(restarted), lambda done: True)}
    return {name: at - kill.at for name, at in times.items() if at is not None}


def _held(entries: Sequence[Entry], kill: Kill) -> set[int]:
    """The tasks that a worker had been leased and that were not completed."""
    held: set[int] = set()
    for entry in entries:
        if entry.kind == "granted":
            body = entry.body
            if (body["worker"], body["incarnation"]) == (kill.index, kill.incarnation):
                held.add(body["task"])
        elif _is_completion(entry):
            held.discard(entry.body["task"])
    return held


def _is_completion(entry: Entry) -> bool:
    """Whether it tells that a task of training is closed: such name the partitions."""
    return (
        entry.kind == "event"
        and entry.body["type"] == "TaskCompleted"
        and bool(entry.body["partition_incarnations"])
    )


def _first(entries: Sequence[Entry], is_meant: Callable[[dict[str, Any]], bool]) -> float | None:
    """When the first of the completions that are meant was told."""
    times = (one.time for one in entries if _is_completion(one) and is_meant(one.body))
    return next(times, None)


def measure_recovery(settings: Settings, warm_spares: int) -> dict[str, Any]:
    """Kill each role's process several times, each time once training is steady again."""
    chance = random.Random(settings.seed)
    with training(settings, warm_spares) as job:
        for number in range(settings.kills):
            for role in ROLES:
                job.wait_for_spares(warm_spares)
                wait_for_leases(job)
                job.wait_for_records(job.wait_for_records(0))
                job.kill(role, chance)
                wait_for_recovery(job)
                _tell(f"{warm_spares} warm spares: {role} killed and back, {number + 1}")
        entries = list(read_journal(job.directory))
    found: dict[str, Any] = {}
    for role in ROLES:
        times = [recovery_of(kill, entries) for kill in job.kills if kill.role == role]
        found[role] = {
            name: {"median_s": statistics.median(values), "worst_s": max(values), "all_s": values}
            for name in ("resumed", "back")
            if (values := [one[name] for one in times if name in one])
        }
    return found


def measure_goodput(settings: Settings, every_s: float, warm_spares: int) -> dict[str, Any]:
    """Train for a while, long enough for three kills every so many seconds; 0 for none."""
    secs = max(settings.secs, KILLS_WATCHED * every_s + every_s / 2)
    chance = random.Random(f"{settings.seed}/{every_s}")
    killed: list[tuple[float, str]] = []
    with training(settings, warm_spares) as job:
        job.wait_for_spares(warm_spares)
        began = time.monotonic()
        first = job.wait_for_records(0)
        samples = [(0.0, first)]
        next_kill_s = every_s or float("inf")
        while (now_s := time.monotonic() - began) < secs:
            if now_s >= next_kill_s:
                kill = job.kill(chance.choice(ROLES), chance)
                if kill is not None:
                    killed.append((now_s, kill.role))
                next_kill_s += every_s
            done = job.records_done()
            if done is not None:
                samples.append((now_s, done))
            time.sleep(POLL_S)
    (start_s, before), (end_s, after) = samples[0], samples[-1]
    speed = (after - before) / (end_s - start_s)
    _tell(f"{warm_spares} warm spares, a kill every {every_s:g} s: {speed:,.0f} records/s")
    return {
        "every_s": every_s,
        "warm_spares": warm_spares,
        "kills": killed,
        "records_per_s": speed,
        "samples": samples,
    }


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure both, without spares and with them."""
    ways = list(dict.fromkeys((0, settings.warm_spares)))
    watched = ways if settings.kills else []
    recovery = {str(spares): measure_recovery(settings, spares) for spares in watched}
    runs = [measure_goodput(settings, 0.0, 0)]
    runs += [measure_goodput(settings, every, n) for every in settings.every_s for n in ways]
    for run in runs:
        run["goodput"] = run["records_per_s"] / runs[0]["records_per_s"]
    return {
        "machine": describe_machine(),
        "settings": asdict(settings),
        "recovery": recovery,
        "goodput": runs,
    }


def plot(result: dict[str, Any]) -> str:
    """Draw the goodput over time, as SVG."""
    runs = result["goodput"]
    panels = [
        Panel(f"{name_of(run)}: goodput {run['goodput']:.2f}", run["samples"], run["kills"])
        for run in runs
    ]
    title = f"Records counted per second: {subject_of(result)}"
    return draw(panels, title, usual_per_s=runs[0]["records_per_s"])


def name_of(run: dict[str, Any]) -> str:
    """What was done to a job."""
    if not run["every_s"]:
        return "undisturbed"
    spares = run["warm_spares"]
    return f"a kill every {run['every_s']:g} s, {f'{spares} warm' if spares else 'no'} spares"


def subject_of(result: dict[str, Any]) -> str:
    """What was measured, and on what machine."""
    settings, machine = result["settings"], result["machine"]
    return (
        f"{settings['model']}, {settings['num_workers']} workers, {settings['num_ps']} parameter "
        f"servers: {machine['cpu']}, {machine['cores']} cores"
    )


def bars(samples: Sequence[tuple[float, int]], most_per_s: float, width: int = 60) -> str:
    """Draw records per second over time, one character for each span of time."""
    end_s = samples[-1][0]
    marks = [end_s * mark / width for mark in range(width + 1)]
    counts = [max((done for at, done in samples if at <= mark), default=0) for mark in marks]
    speeds = [(b - a) * width / end_s for a, b in itertools.pairwise(counts)]
    top = len(BARS) - 1
    return "".join(BARS[min(top, round(top * speed / most_per_s))] for speed in speeds)


def show(result: dict[str, Any]) -> None:
    """Print the result."""
    settings = result["settings"]
    console = Console(width=120)
    title = f"seconds after a kill; {subject_of(result)}"
    table = Table(title=title, title_justify="left")
    for column in ("killed", "spares", "times", "resumed, median", "worst", "back, median"):
        table.add_column(column, justify="left" if column == "killed" else "right")
    table.add_column("worst", justify="right")
    for spares, roles in result["recovery"].items():
        for role, times in roles.items():
            row = [role, spares, str(len(times.get("resumed", {}).get("all_s", [])))]
            for name in ("resumed", "back"):
                one = times.get(name)
                row += [f"{one['median_s']:.1f}", f"{one['worst_s']:.1f}"] if one else ["", ""]
            table.add_row(*row)
    console.print(table)
    runs = result["goodput"]
    table = Table(title=f"goodput over {settings['secs']:.0f} s or more", title_justify="left")
    for column in ("kill every", "spares", "kills", "records/s", "goodput", "records/s over time"):
        table.add_column(column, justify="right", no_wrap=True)
    most_per_s = 1.5 * runs[0]["records_per_s"]
    for run in runs:
        table.add_row(
            f"{run['every_s']:.0f} s" if run["every_s"] else "never",
            str(run["warm_spares"]),
            str(len(run["kills"])),
            f"{run['records_per_s']:,.0f}",
            f"{run['goodput']:.2f}",
            bars(run["samples"], most_per_s),
        )
    console.print(table)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=WORKLOADS, default="deepfm")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_ps", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3, help="of each role; 0 for none")
    parser.add_argument("--secs", type=float, default=120.0, help="goodput is measured for so long")
    parser.add_argument("--every", default="10,30,60", help="seconds between kills, or 'none'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--warm_spares", type=int, default=1, help="measured beside none; 0: without them only"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures here as well, and a plot next to it",
    )
    given = parser.parse_args()
    every_s = () if given.every == "none" else tuple(map(float, given.every.split(",")))
    settings = Settings(
        given.model,
        given.num_workers,
        given.num_ps,
        given.kills,
        given.secs,
        every_s,
        given.seed,
        given.warm_spares,
    )
    result = measure(settings)
    show(result)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")
        picture = given.json.with_suffix(".svg")
        picture.write_text(plot(result))
        _tell(f"the plot: {picture}")


if __name__ == "__main__":
    end_jobs_on_sigterm()
    main()
