"""Is a job's model as good as that of Keras's ``model.fit``? Same models, same data, several seeds.

Each model of the zoo is trained by a job of several workers and by ``model.fit``, on the same
records, as many times, and measured on the same held-out records by the model's own metric. Which
of them is a little better is chance, so both are trained with several seeds. They count as the same
where the difference of the means is within three standard errors, or not above one held-out record.
Beyond that, it is unclear, and more seeds tell, up to what chance makes of two equals 99 times in
100 by Student's t test.

In sync mode a step averages a minibatch of each worker. There, a worker's are so much smaller than
those of ``fit`` that a step of both is of as many records.

In async mode, gradients are of parameters that other workers have changed meanwhile. Whether that
is what a model suffers from is told by ``--late``: then a job is compared with training in one
process whose gradients are applied as late.

The exit code is 1 where a job's model is worse.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import elasticdl
from benchmarks.machine import describe_machine
from benchmarks.workloads import MODEL_ZOO, Workload
from benchmarks.zoo import SIZES, prepare, workloads

# Two-sided 99 % quantiles of Student's t, by degrees of freedom; above, the next lower one holds.
_STUDENT_T = {2: 9.925, 4: 4.604, 6: 3.707, 8: 3.355, 10: 3.169, 14: 2.977, 18: 2.878, 30: 2.750}
# Differences of more standard errors are not called the same.
_SUSPICIOUS = 3

CONSISTENCIES = ("async", "sync")


@dataclass(frozen=True)
class Settings:
    """What both are trained with.

    Attributes:
      size: of the data, among `SIZES`.
      seeds: how many.
      num_workers: of a job.
      num_ps: of a job.
      consistencies: of the jobs that are compared.
      staleness: of async jobs.
      late: how many other gradients ``model.fit`` is to apply before each; see `fit`.
    """

    size: str
    seeds: int
    num_workers: int
    num_ps: int
    consistencies: tuple[str, ...] = CONSISTENCIES
    staleness: int = 1
    late: int = 0

    @property
    def fit_name(self) -> str:
        """What the jobs are compared with."""
        return f"{self.late} late" if self.late else "model.fit"


@dataclass(frozen=True)
class Comparison:
    """What one model reached.

    Attributes:
      metric: its name; more is better.
      job: by seed, of the job's models.
      fit: by seed, of those of ``model.fit``.
      num_test_records: what they were measured on.
    """

    metric: str
    job: list[float]
    fit: list[float]
    num_test_records: int

    @property
    def difference(self) -> float:
        """Mean of the job's less mean of fit's."""
        return statistics.fmean(self.job) - statistics.fmean(self.fit)

    @property
    def noise(self) -> float:
        """Standard deviation over the seeds, of both together."""
        return math.sqrt((statistics.variance(self.job) + statistics.variance(self.fit)) / 2)

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        return self.noise * math.sqrt(2 / len(self.job))

    @property
    def limit(self) -> float:
        """Up to which difference chance can be the reason."""
        freedom = 2 * len(self.job) - 2
        quantile = _STUDENT_T[max(each for each in _STUDENT_T if each <= freedom)]
        return max(quantile * self.standard_error, 1 / self.num_test_records)

    @property
    def verdict(self) -> str:
        """Whether the job's models are the same, better, worse, or it is unclear."""
        # Means of the same values in another order differ in the last bit.
        difference = abs(self.difference) * (1 - 1e-9)
        if difference > self.limit:
            return "better" if self.difference > 0 else "worse"
        if difference > max(_SUSPICIOUS * self.standard_error, 1 / self.num_test_records):
            return "unclear"
        return "same"

    def as_dict(self) -> dict[str, Any]:
        """The values and what follows from them."""
        names = ("difference", "noise", "standard_error", "limit", "verdict")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


def run_job(
    workload: Workload, data: Path, seed: int, settings: Settings, consistency: str
) -> float:
    """Train with a local job and return the metric on the held-out records."""
    minibatch_size = workload.minibatch_size
    if consistency == "sync":  # its steps are of a minibatch of each worker
        minibatch_size = max(1, minibatch_size // max(1, settings.num_workers))
    with tempfile.TemporaryDirectory(prefix="elasticdl-quality-") as directory:
        result = elasticdl.train(
            model_zoo=MODEL_ZOO,
            model_def=workload.model_def,
            params=workload.params_text,
            data=str(data / "train" / "*.recordio"),
            validation_data=str(data / "test" / "*.recordio"),
            output=str(Path(directory) / "trained_model"),
            job_dir=str(Path(directory) / "job"),
            minibatch_size=minibatch_size,
            num_epochs=workload.num_epochs,
            seed=seed,
            num_workers=settings.num_workers,
            num_ps=settings.num_ps,
            consistency=consistency,
            staleness=settings.staleness if consistency == "async" else 1,
            quiet=True,
        )
    if set(result.audit["applied_once"].values()) != {result.audit["records_expected"]}:
        raise SystemExit(f"{workload.model_def}: not every record was applied once: {result.audit}")
    return result.metrics[workload.metric]


def run_fit(workload: Workload, data: Path, seed: int, late: int = 0) -> float:
    """Train in this process and return the metric on the held-out records."""
    from benchmarks.fit import evaluate, fit

    pattern = str(data / "train" / "*.recordio")
    fitted = fit(workload, pattern, workload.minibatch_size, workload.num_epochs, seed, late)
    return evaluate(fitted, str(data / "test" / "*.recordio"))[workload.metric]


def compare(name: str, settings: Settings) -> dict[str, Comparison]:
    """Train one model all ways, with every seed; return comparisons by consistency."""
    from elasticdl.data.shards import find_shards

    workload = workloads(settings.size)[name]
    data = prepare(workload, settings.size)
    seeds = range(settings.seeds)
    num_test_records = sum(
        shard.num_records for shard in find_shards(str(data / "test" / "*.recordio"))
    )

    def reached(by: str, train: Callable[[int], float]) -> list[float]:
        return [_told(f"{name}, {by}, seed {seed}", partial(train, seed)) for seed in seeds]

    fit = reached(settings.fit_name, partial(run_fit, workload, data, late=settings.late))
    jobs = {
        consistency: reached(
            consistency,
            partial(run_job, workload, data, settings=settings, consistency=consistency),
        )
        for consistency in settings.consistencies
    }
    return {
        consistency: Comparison(workload.metric, job, fit, num_test_records)
        for consistency, job in jobs.items()
    }


def _told(what: str, train: Callable[[], float]) -> float:
    """Train, say on standard error what was reached and how long it took, and return it."""
    started = time.perf_counter()
    reached = train()
    seconds = time.perf_counter() - started
    print(f"{what}: {reached:.4f} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return reached


def show(settings: Settings, comparisons: dict[str, dict[str, Comparison]]) -> None:
    """Print the comparisons as a table."""
    table = Table(
        title=f"held-out metric by jobs of {settings.num_workers} workers and {settings.num_ps} "
        f"parameter servers, and by {settings.fit_name}; mean of {settings.seeds} seeds: "
        f"{describe_machine()['cpu']}",
        title_justify="left",
    )
    table.add_column("model")
    table.add_column("metric")
    table.add_column("consistency")
    for column in ("job", settings.fit_name, "difference", "noise", "limit"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    rows = (
        (name, consistency, each)
        for name, compared in comparisons.items()
        for consistency, each in compared.items()
    )
    for name, consistency, each in rows:
        table.add_row(
            name,
            each.metric,
            consistency,
            f"{statistics.fmean(each.job):.4f}",
            f"{statistics.fmean(each.fit):.4f}",
            f"{each.difference:+.4f}",
            f"{each.noise:.4f}",
            f"{each.limit:.4f}",
            each.verdict,
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        "noise: standard deviation over seeds; limit: what chance makes of two equals, "
        "99 times in 100; unclear: within it, but beyond 3 standard errors"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = list(workloads("small"))
    parser.add_argument(
        "--only", metavar="NAMES", help=f"some of {', '.join(every)}, with commas between"
    )
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="full: as the zoo's READMEs say, hours"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each, 2 or more")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_ps", type=int, default=2)
    parser.add_argument("--consistency", choices=CONSISTENCIES, help="one of the two, not both")
    parser.add_argument("--staleness", type=int, default=1, help="of async jobs")
    parser.add_argument(
        "--late", type=int, default=0, help="gradients that fit applies between a pull and its push"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args(words)
    names = given.only.split(",") if given.only else every
    if unknown := [name for name in names if name not in every]:
        parser.error(f"--only '{unknown[0]}': not one of {', '.join(every)}")
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds}: noise needs 2 or more")
    consistencies = (given.consistency,) if given.consistency else CONSISTENCIES
    settings = Settings(
        given.size,
        given.seeds,
        given.num_workers,
        given.num_ps,
        consistencies,
        given.staleness,
        given.late,
    )
    comparisons = {name: compare(name, settings) for name in names}
    if given.json:
        models = {
            name: {consistency: each.as_dict() for consistency, each in compared.items()}
            for name, compared in comparisons.items()
        }
        print(
            json.dumps(
                {"machine": describe_machine(), "settings": asdict(settings), "models": models}
            )
        )
    else:
        show(settings, comparisons)
    verdicts = [each.verdict for compared in comparisons.values() for each in compared.values()]
    return int("worse" in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
