"""Is a model as good where workers come and go? A click-through model of the zoo, by several jobs.

The same records are trained with a fixed number of workers, with another one, and with a number
that changes between the two: workers join, leave and are killed by a schedule drawn from the seed.
All are measured by the AUC on the same held-out records. In async mode the order of minibatches,
and how late gradients are, depend on who is there; how much that makes is held against what another
seed makes. In sync mode a step is the same minibatches whoever computes them, so nothing may
change at all.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.disturbed_job import DisturbedJob
from benchmarks.job_process import end_jobs_on_sigterm
from benchmarks.machine import describe_machine
from benchmarks.quality import CONSISTENCIES, Comparison
from benchmarks.workloads import MODEL_ZOO, Workload
from benchmarks.zoo import make_clicks
from elasticdl.api import jobs
from elasticdl.errors import ElasticDLError
from elasticdl.master.journal import read_journal

MODELS = {"wide_and_deep": "ctr.WideAndDeep", "deepfm": "ctr.DeepFM", "dcn_v2": "ctr.DCNv2"}
METRIC = "auc"
EQUAL = 0.001
POLL_S = 0.2
# A change waits for those of the one before to be at work, but only for this share of the records.
PATIENCE = 0.1


@dataclass(frozen=True)
class Settings:
    """What is trained, and how.

    Attributes:
      model: among `MODELS`.
      records: to train on.
      test_records: to measure on.
      epochs: how often the records are read.
      seeds: how many.
      least: of the workers.
      most: of the workers; also the minibatches of a step in sync mode.
      num_ps: parameter servers.
      minibatch_size: in async mode; in sync mode a step has as many records.
      changes: how often workers join, leave, or are killed in an elastic job.
      consistencies: of the jobs.
    """

    model: str
    records: int
    test_records: int
    epochs: int
    seeds: int
    least: int
    most: int
    num_ps: int
    minibatch_size: int
    changes: int
    consistencies: tuple[str, ...]

    @property
    def ways(self) -> dict[str, tuple[int, int]]:
        """Least and most workers, by what a row of the table is called; the first is the usual."""
        return {
            f"fixed {self.least}": (self.least, self.least),
            f"fixed {self.most}": (self.most, self.most),
            f"elastic {self.least} to {self.most}": (self.least, self.most),
        }


@dataclass(frozen=True)
class Change:
    """What is to happen once a share of all records is counted.

    Attributes:
      share: of the records, over all epochs.
      num_workers: that are wanted from then on; None: one is killed.
    """

    share: float
    num_workers: int | None


@dataclass(frozen=True)
class Run:
    """One job, whose records were all applied once.

    Attributes:
      auc: on the held-out records.
      joined: workers that came when more were wanted.
      left: workers that went when fewer were wanted.
      killed: workers that were killed, each of which was replaced.
      records: that were expected, and applied once by every partition.
      seconds: from its start to its end.
      story: what happened to its workers, and at how many records.
    """

    auc: float
    joined: int
    left: int
    killed: int
    records: int
    seconds: float
    story: list[str]


def draw_changes(seed: int, settings: Settings) -> list[Change]:
    """Draw an elastic job's schedule: kills and other numbers of workers, by turns."""
    chance = random.Random(f"elastic/{seed}")
    shares = sorted(chance.uniform(0.02, 0.85) for _ in range(settings.changes))
    numbers = range(settings.least, settings.most + 1)
    now, changes = settings.least, []
    for number, share in enumerate(shares):
        if number % 2:
            changes.append(Change(share, None))
            continue
        # All there can be at first, so that nobody is elastic by name only.
        now = settings.most if not number else chance.choice([one for one in numbers if one != now])
        changes.append(Change(share, now))
    return changes


class Elasticity:
    """Carries out the changes of one job while it trains.

    Args:
      job: the job.
      changes: in the order of their shares.
      records: of all epochs.
      num_workers: at first.
      chance: chooses who is killed.
      tell: is given a line for each change.
    """

    def __init__(
        self,
        job: DisturbedJob,
        changes: Sequence[Change],
        records: int,
        num_workers: int,
        chance: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self.joined = self.left = self.killed = 0
        self.story: list[str] = []
        self._job = job
        self._changes = changes
        self._records = records
        self._num_workers = num_workers
        self._chance = chance
        self._tell = tell

    def run(self) -> None:
        """Return when all is carried out, or the job has ended."""
        for change in self._changes:
            for done in self._counted():
                share = done / self._records
                if share >= change.share + PATIENCE or (
                    share >= change.share and self._all_are_at_work()
                ):
                    break
            else:
                return
            self._carry_out(change, done)

    def _counted(self) -> Iterator[int]:
        """Yield the records that are counted, from time to time, while the job trains."""
        while self._job.is_running:
            status = self._job.status()
            if status is not None and status.phase == "training":
                yield int(status.records_done)
            elif status is not None and status.records_done >= self._records:
                return
            time.sleep(POLL_S)

    def _all_are_at_work(self) -> bool:
        """Whether as many workers as are wanted are there and have been given a task."""
        status = self._job.status()
        there = {
            (one.instance.index, one.instance.incarnation)
            for one in (status.instances if status is not None else ())
            if one.instance.role == "worker" and one.state == "running"
        }
        granted = (entry.body for entry in read_journal(self._job.directory, "granted"))
        at_work = {(body["worker"], body["incarnation"]) for body in granted}
        return len(there) == self._num_workers and there <= at_work

    def _carry_out(self, change: Change, done: int) -> None:
        if change.num_workers is None:
            kill = self._job.kill("worker", self._chance)
            if kill is None:
                return
            self.killed += 1
            self._note(done, f"worker {kill.index} killed")
            return
        try:
            jobs.scale(str(self._job.directory), change.num_workers)
        except ElasticDLError:  # It has ended meanwhile.
            return
        more = change.num_workers - self._num_workers
        self.joined += max(0, more)
        self.left += max(0, -more)
        self._num_workers = change.num_workers
        self._note(done, f"{change.num_workers} workers")

    def _note(self, done: int, what: str) -> None:
        self.story.append(f"{done}: {what}")
        self._tell(f"{done:,} of {self._records:,} records: {what}")


def run_job(
    settings: Settings, data: Path, consistency: str, way: str, seed: int, tell: Callable[..., None]
) -> Run:
    """Train with one job, and measure what it has learned.

    Raises:
      SystemExit: it failed, or has not applied every record once.
    """
    least, most = settings.ways[way]
    is_elastic, is_sync = least != most, consistency == "sync"
    records = settings.records * settings.epochs
    size = settings.minibatch_size // settings.most if is_sync else settings.minibatch_size
    options = {
        "model_zoo": MODEL_ZOO,
        "model_def": MODELS[settings.model],
        "data": data / "train" / "*.recordio",
        "validation_data": data / "test" / "*.recordio",
        "evaluation_epochs": settings.epochs,
        "minibatch_size": max(1, size),
        "records_per_task": max(settings.minibatch_size, records // 100),
        "num_epochs": settings.epochs,
        "seed": seed,
        "num_workers": least,
        "num_ps": settings.num_ps,
        # Sums within a step depend on the threads that make them.
        "worker_threads": 1,
        "consistency": consistency,
        "grads_to_wait": settings.most if is_sync else "",
        "warm_spares": 1 if is_elastic else 0,
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="elasticdl-elastic-") as place:
        job = DisturbedJob(Path(place), options)
        changes = draw_changes(seed, settings) if is_elastic else []
        elasticity = Elasticity(job, changes, records, least, random.Random(seed), tell)
        try:
            elasticity.run()
            result = job.result()
        finally:
            job.end()
    audit = result["audit"]
    if audit["records_expected"] != records or set(audit["applied_once"].values()) != {records}:
        raise SystemExit(f"{way}, seed {seed}: not every record was applied once: {audit}")
    if audit["lost"] or audit["filtered"] or audit["skipped"] or audit["repeated"]:
        raise SystemExit(f"{way}, seed {seed}: records were not counted once: {audit}")
    return Run(
        result["metrics"][METRIC],
        elasticity.joined,
        elasticity.left,
        elasticity.killed,
        records,
        time.monotonic() - began,
        elasticity.story,
    )


def prepare(settings: Settings) -> Path:
    """Make the data unless it is there; return its directory."""
    workload = Workload(
        MODELS[settings.model],
        make_clicks(settings.records, settings.test_records),
        settings.minibatch_size,
        settings.epochs,
        METRIC,
        data_version=2,
    )
    return workload.prepare(f"elastic_{settings.records}_{settings.test_records}_ctr")


def measure(settings: Settings) -> dict[str, dict[str, list[Run]]]:
    """Train all ways with every seed; return the runs by consistency and way, in order of seeds."""
    data = prepare(settings)
    runs: dict[str, dict[str, list[Run]]] = {
        consistency: {way: [] for way in settings.ways} for consistency in settings.consistencies
    }
    total = len(settings.consistencies) * len(settings.ways) * settings.seeds
    done = 0
    for seed in range(settings.seeds):
        for consistency in settings.consistencies:
            for way in settings.ways:
                done += 1
                name = f"[{done}/{total}] {consistency}, {way}, seed {seed}"

                def tell(what: str, name: str = name) -> None:
                    print(f"{name}: {what}", file=sys.stderr, flush=True)

                tell("begins")
                run = run_job(settings, data, consistency, way, seed, tell)
                runs[consistency][way].append(run)
                tell(f"{METRIC} {run.auc:.5f} ({run.seconds:.0f} s)")
    return runs


def verdict(reached: Sequence[float], usual: Sequence[float], num_test_records: int) -> str:
    """Say whether two ways are equal within `EQUAL`, or what the seeds' noise makes of it."""
    difference = abs(statistics.fmean(reached) - statistics.fmean(usual))
    if difference <= EQUAL:
        return f"equal within {EQUAL}"
    if len(reached) < 2:
        return f"differs by more than {EQUAL}; one seed shows no noise"
    compared = Comparison(METRIC, list(reached), list(usual), num_test_records)
    if compared.verdict == "same":
        return f"within the noise of seeds ({compared.standard_error:.4f} standard error)"
    return f"{compared.verdict} (chance makes up to {compared.limit:.4f})"


def table(settings: Settings, runs: dict[str, dict[str, list[Run]]]) -> str:
    """Return the results as a table of Markdown."""
    usual = next(iter(settings.ways))
    seeds = [f"seed {seed}" for seed in range(settings.seeds)]
    head = ["mode", "workers", *seeds, "mean", "noise", f"less {usual}", "joined", "left", "killed"]
    lines = [[*head, "records counted once", "verdict"]]
    lines.append([*2 * ["---"], *(len(head) - 1) * ["---:"], "---"])
    for consistency, ways in runs.items():
        usual_aucs = [run.auc for run in ways[usual]]
        for way, each in ways.items():
            aucs = [run.auc for run in each]
            noise = f"{statistics.stdev(aucs):.4f}" if len(aucs) > 1 else ""
            difference = statistics.fmean(aucs) - statistics.fmean(usual_aucs)
            verdict_of_way = verdict(aucs, usual_aucs, settings.test_records)
            line = [consistency, way, *(f"{auc:.4f}" for auc in aucs)]
            line += [f"{statistics.fmean(aucs):.4f}", noise, f"{difference:+.4f}"]
            line += [str(sum(getattr(run, name) for run in each)) for name in head[-3:]]
            line += [f"{sum(run.records for run in each):,}"]
            line += ["" if way == usual else verdict_of_way]
            lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 1 where a way is worse beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="deepfm")
    parser.add_argument("--records", type=int, default=60_000, help="to train on")
    parser.add_argument("--test_records", type=int, default=20_000, help="to measure on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--least", type=int, default=2, help="workers")
    parser.add_argument("--most", type=int, default=4, help="workers")
    parser.add_argument("--num_ps", type=int, default=2)
    parser.add_argument("--minibatch_size", type=int, default=256, help="in sync mode, of a step")
    parser.add_argument("--changes", type=int, default=6, help="of the workers of an elastic job")
    parser.add_argument("--consistency", choices=CONSISTENCIES, help="one of the two, not both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    given = parser.parse_args(words)
    if not 1 <= given.least < given.most:
        parser.error(f"--least={given.least} --most={given.most}: give 1 or more, and more than it")
    settings = Settings(
        given.model,
        given.records,
        given.test_records,
        given.epochs,
        given.seeds,
        given.least,
        given.most,
        given.num_ps,
        given.minibatch_size,
        given.changes,
        (given.consistency,) if given.consistency else CONSISTENCIES,
    )
    runs = measure(settings)
    machine = describe_machine()
    print(
        f"AUC of {settings.model} on {settings.test_records:,} held-out records, trained on "
        f"{settings.records:,} (epochs: {settings.epochs}): {machine['cpu']}, "
        f"{machine['cores']} cores\n\n{table(settings, runs)}"
    )
    verdicts = {
        consistency: {
            way: verdict(
                [run.auc for run in each],
                [run.auc for run in next(iter(ways.values()))],
                settings.test_records,
            )
            for way, each in ways.items()
        }
        for consistency, ways in runs.items()
    }
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {
            "machine": machine,
            "settings": asdict(settings),
            "runs": {
                consistency: {way: [asdict(run) for run in each] for way, each in ways.items()}
                for consistency, ways in runs.items()
            },
            "verdicts": verdicts,
        }
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    every = [one for ways in verdicts.values() for one in ways.values()]
    return int(any(one.startswith("worse") for one in every))


if __name__ == "__main__":
    end_jobs_on_sigterm()
    raise SystemExit(main())
