"""Samples per second of a job next to everything else that trains the same model here.

    python -m benchmarks.peers
    python -m benchmarks.peers --only=ours,ceiling --rounds=1 --json=output/peers.json
    python -m benchmarks.peers --only=ours_async_apart,ceiling_one_core --forms=ready

The contestants take turns, each in processes of its own, so that whatever else the machine does
falls on all: what counts are the medians, and the ratios of each round. All are given the same
minibatches, in the same order; *ready* ones, and then Examples that are read and parsed, too. Each
is measured for some seconds of training after a warm-up, so that starting is in no figure.

- ceiling: the training step alone; see `benchmarks.peers.step`.
- ours: a whole job, its parameter server a process of its own; see `benchmarks.peers.job`. Async
  jobs have a staleness of 2 unless told otherwise.
- fit, tf_keras_fit: `model.fit` in one process; see `benchmarks.peers.fit`.
- pss: TensorFlow's ParameterServerStrategy; see `benchmarks.peers.pss`.
- quality: not a speed: whether a job's model is as good; see `benchmarks.peers.quality`.
- wire_quality: likewise, whether it is with ``--wire_dtype=bfloat16``; only if it is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.job_process import end_jobs_on_sigterm
from benchmarks.machine import describe_machine
from benchmarks.peers import contestant, job, quality
from benchmarks.peers.contestant import Answer, Request
from benchmarks.peers.ratios import (
    CEILING_ALL,
    CEILING_EACH,
    CEILING_ONE,
    FIT,
    OURS,
    OURS_APART,
    OURS_SYNC,
    PSS,
    PSS_TUNED,
    TF_KERAS_FIT,
    best_of,
    ratios,
)
from benchmarks.peers.workloads import WORKLOADS

FORMS = ("ready", "parsed")
PARSED = "_parsed"
CLICKS = ("deepfm",)


@dataclass(frozen=True)
class Contestant:
    """One that is measured.

    Attributes:
      group: what ``--only`` calls it.
      title: what the table calls it.
      measure: does it.
      workloads: the models that it can train.
      reads: whether it reads records, so that parsing them makes a difference.
    """

    group: str
    title: str
    measure: Callable[[Request], Answer]
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    reads: bool = True


def _step(request: Request, one_core: bool) -> Answer:
    cores = (min(os.sched_getaffinity(0)),) if one_core else ()
    return contestant.run("benchmarks.peers.step", replace(request, cores=cores))


def _step_of_each_core(request: Request) -> Answer:
    each = [replace(request, cores=(core,)) for core in sorted(os.sched_getaffinity(0))]
    return contestant.run_together("benchmarks.peers.step", each)


def _job(request: Request, num_workers: int, consistency: str) -> Answer:
    return job.measure(replace(request, num_workers=num_workers), consistency)


def _job_apart(request: Request) -> Answer:
    return job.measure(request, cores=job.Cores.apart())


def _fit(request: Request, keras: str) -> Answer:
    return contestant.run("benchmarks.peers.fit", request, keras)


def _pss(request: Request, num_workers: int, lookup: str) -> Answer:
    request = replace(request, num_workers=num_workers)
    return contestant.run("benchmarks.peers.pss", request, lookup)


def _workers(number: int) -> str:
    return f"{number} worker{'s' * (number > 1)}"


CONTESTANTS = {
    CEILING_ONE: Contestant(
        "ceiling", "the step alone, on one core", partial(_step, one_core=True), reads=False
    ),
    CEILING_ALL: Contestant(
        "ceiling", "the step alone, on all cores", partial(_step, one_core=False), reads=False
    ),
    CEILING_EACH: Contestant(
        "ceiling", "the step alone, a process on each core", _step_of_each_core, reads=False
    ),
    OURS_APART: Contestant("ours", "async job, 1 worker and 1 PS on a core each", _job_apart),
    **{
        name: Contestant(
            "ours",
            f"{consistency} job, 1 PS and {_workers(number)}",
            partial(_job, num_workers=number, consistency=consistency),
        )
        for names, consistency in ((OURS[1:], "async"), (OURS_SYNC, "sync"))
        for number, name in enumerate(names, 1)
    },
    FIT: Contestant("fit", "Keras 3 model.fit", partial(_fit, keras="keras")),
    TF_KERAS_FIT: Contestant(
        "tf_keras_fit", "tf_keras model.fit", partial(_fit, keras="tf_keras"), CLICKS
    ),
    **{
        name: Contestant(
            "pss",
            f"ParameterServerStrategy, {lookup}, 1 PS and {_workers(number)}",
            partial(_pss, num_workers=number, lookup=lookup),
            CLICKS,
        )
        for names, lookup in ((PSS, "plain"), (PSS_TUNED, "tuned"))
        for number, name in enumerate(names, 1)
    },
}
GROUPS = tuple(dict.fromkeys(each.group for each in CONTESTANTS.values()))
QUALITY = "quality"
WIRE_QUALITY = "wire_quality"
ONLY = (*GROUPS, QUALITY, WIRE_QUALITY, *CONTESTANTS)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
      model: among `WORKLOADS`.
      rounds: how often each has its turn.
      seconds: of training that count, in each turn.
      warm_up: seconds of training before them.
      only: groups of contestants, or names of single ones.
      forms: of the data.
      minibatches: of the data, in place of the workload's own number.
      staleness: of async jobs.
    """

    model: str
    rounds: int
    seconds: float
    warm_up: float
    only: tuple[str, ...]
    forms: tuple[str, ...]
    minibatches: int | None
    staleness: int = 2


def chosen(settings: Settings) -> dict[str, tuple[Contestant, str]]:
    """Return contestant and form of data by name, in the order of their turns."""
    return {
        name + (PARSED if form == "parsed" else ""): (each, form)
        for form in settings.forms
        for name, each in CONTESTANTS.items()
        if (each.group in settings.only or name in settings.only)
        and settings.model in each.workloads
        and (each.reads or form == "ready")
        and (name != OURS_APART or job.Cores.apart() is not None)
    }


def measure(settings: Settings) -> dict[str, Any]:
    """Let all take their turns; return everything that was found."""
    directory = WORKLOADS[settings.model].prepare(settings.model, settings.minibatches)
    turns = chosen(settings)
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    load_before = os.getloadavg()[0]
    for number in range(1, settings.rounds + 1):
        for name, (each, form) in turns.items():
            request = Request(
                settings.model,
                str(directory),
                form,
                settings.warm_up,
                settings.seconds,
                staleness=settings.staleness,
            )
            found = each.measure(request)
            answers[name].append(found.as_dict())
            speed = f"{found.samples_per_s:,.0f} samples/s"
            print(f"round {number}, {name}: {speed}", file=sys.stderr, flush=True)
    compared = {QUALITY: quality.compare, WIRE_QUALITY: quality.compare_wire}
    return {
        "machine": describe_machine(),
        "load_before": load_before,
        **{
            name: compare(directory, settings.rounds)
            if name in settings.only and settings.model in CLICKS
            else None
            for name, compare in compared.items()
        },
        "settings": asdict(settings),
        **summarize(answers, WORKLOADS[settings.model].targets),
    }


def summarize(
    answers: Mapping[str, Sequence[dict[str, Any]]], targets: Mapping[str, float]
) -> dict[str, Any]:
    """Return the speeds by well-known names, each contestant's figures, and the ratios."""
    rounds = {name: [one["samples_per_s"] for one in each] for name, each in answers.items()}
    known = {
        "ours_async": OURS,
        "ours_sync": OURS_SYNC,
        "ceiling": (CEILING_ALL, CEILING_EACH),
        "ceiling_one_core": (CEILING_ONE,),
        "tf_pss": PSS,
        "tf_pss_tuned": PSS_TUNED,
        "keras3_fit": (FIT,),
        "tf_keras_fit": (TF_KERAS_FIT,),
    }
    best = {
        f"{title}{suffix}_samples_per_s": best_of([name + suffix for name in names], rounds)
        for suffix in ("", PARSED)
        for title, names in known.items()
    }
    return {
        **{key: statistics.median(rounds[name]) for key, name in best.items() if name is not None},
        "contestants": {
            name: {
                "title": CONTESTANTS[name.removesuffix(PARSED)].title,
                "form": "parsed" if name.endswith(PARSED) else "ready",
                "samples_per_s": statistics.median(rounds[name]),
                "cpu_seconds_per_million": _median_by_role(
                    [one["cpu_seconds_per_million"] for one in each]
                ),
                "rounds": each,
            }
            for name, each in answers.items()
        },
        "ratios": [{**asdict(each), "is_met": each.is_met} for each in ratios(rounds, targets)],
    }


def _median_by_role(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {role: statistics.median(one[role] for one in each) for role in each[0]}


def show(result: dict[str, Any]) -> None:
    """Print the result as tables."""
    settings, machine = result["settings"], result["machine"]
    console = Console(width=140)
    table = Table(
        title=f"{settings['model']}, {settings['rounds']} rounds of {settings['seconds']:.0f} s: "
        f"{machine['cpu']}, {machine['cores']} cores, load {result['load_before']:.1f} before",
        title_justify="left",
    )
    for column in ("", "data"):
        table.add_column(column)
    for column in ("samples/s", "lowest", "highest", "CPU s per million samples"):
        table.add_column(column, justify="right")
    for each in result["contestants"].values():
        speeds = [one["samples_per_s"] for one in each["rounds"]]
        used = each["cpu_seconds_per_million"]
        roles = ", ".join(f"{role} {seconds:.1f}" for role, seconds in sorted(used.items()))
        figures = [f"{one:,.0f}" for one in (each["samples_per_s"], min(speeds), max(speeds))]
        table.add_row(each["title"], each["form"], *figures, roles)
    if result["contestants"]:
        console.print(table)
    if result["ratios"]:
        console.print(_ratio_table(result["ratios"]))
    if result[QUALITY] is not None:
        console.print(quality.table(result[QUALITY]))
    if result[WIRE_QUALITY] is not None:
        console.print(quality.wire_table(result[WIRE_QUALITY]))


def is_met(result: dict[str, Any]) -> bool:
    """Whether everything that is demanded, of what was measured, is so."""
    found, of_wire = result[QUALITY], result[WIRE_QUALITY]
    is_as_good = found is None or quality.is_met(found)
    is_as_good &= of_wire is None or quality.is_wire_met(of_wire)
    return is_as_good and all(each["is_met"] for each in result["ratios"])


def _ratio_table(found: Iterable[dict[str, Any]]) -> Table:
    table = Table(title="ratios: median over the rounds", title_justify="left")
    table.add_column("")
    for column in ("ratio", "lowest", "highest", "at least"):
        table.add_column(column, justify="right")
    table.add_column("met")
    for each in found:
        figures = [f"{each[name]:.2f}" for name in ("median", "lowest", "highest")]
        demanded = each["target"] is not None
        target = f"{each['target']:.2f}" if demanded else ""
        met = ("yes" if each["is_met"] else "no") if demanded else ""
        table.add_row(each["text"], *figures, target, met)
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=WORKLOADS, default="deepfm")
    parser.add_argument(
        "--only", default=",".join((*GROUPS, QUALITY)), help=f"some of {', '.join(ONLY)}"
    )
    parser.add_argument("--forms", default=",".join(FORMS), help="ready, parsed, or both")
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training that count")
    parser.add_argument("--warm_up", type=float, default=5.0, help="seconds of training before")
    parser.add_argument("--minibatches", type=int, help="of the data that is made")
    parser.add_argument("--staleness", type=int, default=2, help="of async jobs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--check", action="store_true", help="exit code 1 if anything is not met")
    given = parser.parse_args(words)
    for name, known in (("only", ONLY), ("forms", FORMS)):
        for each in getattr(given, name).split(","):
            if each not in known:
                parser.error(f"--{name} '{each}': not one of {', '.join(known)}")
    settings = Settings(
        given.model,
        given.rounds,
        given.seconds,
        given.warm_up,
        tuple(given.only.split(",")),
        tuple(given.forms.split(",")),
        given.minibatches,
        given.staleness,
    )
    result = measure(settings)
    show(result)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(given.check and not is_met(result))


if __name__ == "__main__":
    end_jobs_on_sigterm()
    raise SystemExit(main())
