"""What it costs to watch a job: with a page open and a scrape each second, over nobody looking.

Jobs with and without run by turns; the ratio is that of their samples a second. On a busy machine
the processor time of the master says more, and has a target: all that watching takes happens there.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import elasticdl
from benchmarks.figures import Figure, add_arguments, finish
from benchmarks.workloads import MODEL_ZOO, WORKLOADS
from elasticdl.cores import usable_cores

PAUSE_S = 1.0
MOST_PERCENT = 1.0
LEAST_SEEN_PER_S = 1.0
"""States and scrapes are two a second where both arrive."""


@dataclass(frozen=True)
class Watched:
    """One job; `master_cpu_s` of its last master, `seen` how many states and scrapes there were."""

    samples_per_s: float
    seconds: float
    master_cpu_s: float
    seen: int


class Viewer:
    """A page that is open, and a Prometheus, until `close`."""

    def __init__(self, port: int) -> None:
        self.seen = 0
        self._url = f"http://127.0.0.1:{port}/"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._look, self._scrape)]
        for thread in self._threads:
            thread.start()

    def _look(self) -> None:
        while not self._ended.is_set():
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self._url}api/stream", timeout=30) as stream,
            ):
                for line in stream:
                    self.seen += line.startswith(b"event: state")
            self._ended.wait(PAUSE_S)

    def _scrape(self) -> None:
        while not self._ended.wait(PAUSE_S):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self._url}metrics", timeout=30) as answer,
            ):
                self.seen += bool(answer.read())

    def close(self) -> None:
        """Look no more; the job has ended."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def viewer(port: int, is_watched: bool) -> Iterator[Viewer | None]:
    """Look at what is served at a port, if the job is watched."""
    one = Viewer(port) if is_watched else None
    try:
        yield one
    finally:
        if one is not None:
            one.close()


def run(settings: argparse.Namespace, is_watched: bool) -> Watched:
    """Train once."""
    workload = WORKLOADS[settings.model]
    pattern = str(workload.prepare(settings.model) / "train" / "*.recordio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(prefix="elasticdl-watching-") as directory,
        viewer(port, is_watched) as eyes,
    ):
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
            dashboard=is_watched,
            dashboard_port=port if is_watched else 0,
            quiet=True,
        )
    return Watched(
        result.audit["records_expected"] / result.training_seconds,
        result.training_seconds,
        result.figures["roles"]["master"]["cpu_s"],
        0 if eyes is None else eyes.seen,
    )


def measure(settings: argparse.Namespace) -> tuple[list[Watched], list[Watched]]:
    """Run both by turns; return those that were watched, and those that were not."""
    watched: list[Watched] = []
    alone: list[Watched] = []
    for number in range(settings.rounds):
        for is_watched in (True, False) if number % 2 else (False, True):
            (watched if is_watched else alone).append(run(settings, is_watched))
    return watched, alone


def figures_of(watched: Sequence[Watched], alone: Sequence[Watched], cores: int) -> list[Figure]:
    """Compare jobs that were watched with those that ran next to each."""
    ratios = [a.samples_per_s / b.samples_per_s for a, b in zip(watched, alone, strict=True)]
    more_cpu_s = statistics.median(
        a.master_cpu_s - b.master_cpu_s for a, b in zip(watched, alone, strict=True)
    )
    seconds = statistics.median(one.seconds for one in watched)
    return [
        Figure("samples a second, watched over alone", statistics.median(ratios)),
        Figure(
            "processor time more of the master, its imports included",
            more_cpu_s,
            "s",
            less_is_better=True,
        ),
        Figure(
            "the same, of the machine's while it trains",
            100 * more_cpu_s / (seconds * cores),
            "%",
            at_most=MOST_PERCENT,
        ),
        Figure(
            "states and scrapes that arrived",
            min(one.seen / one.seconds for one in watched),
            "a second",
            at_least=LEAST_SEEN_PER_S,
        ),
    ]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__)
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="deepfm")
    parser.add_argument("--minibatch_size", type=int, default=512)
    parser.add_argument("--num_epochs", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--num_ps", type=int, default=1)
    add_arguments(parser, rounds=3)
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.num_epochs = 1, 1
    watched, alone = measure(given)
    figures = figures_of(watched, alone, usable_cores())
    return finish(
        given,
        "What watching costs",
        figures,
        watched=[asdict(one) for one in watched],
        alone=[asdict(one) for one in alone],
    )


if __name__ == "__main__":
    raise SystemExit(main())
