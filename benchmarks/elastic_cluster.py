"""What elastic jobs make of a cluster: `python -m benchmarks.elastic_cluster`.

Two experiments, each on a real cluster of `tests/cluster` that it brings up:

jobs: two jobs where there is room for one and a half. *Gang*: a job begins once all its pods have
room. *Elastic*: it begins with the workers that have room, and grows. How long both take together,
and how many of the cores that pods may request are requested and used meanwhile.

service: a service that has to answer fast, with more pods in some minutes than in others, which
requests more than it uses on average; and a job that takes what it leaves: its workers have a lower
priority, make room and come back, request little and may use more. How much of the cores is used,
and how long answers take beside those of the service alone.

What pods may request is the machine's cores less those of the control plane. The two jobs have two
nodes, and workers that may use no more than they request, as where each has a core of its own. The
service and its job have one node with one core; the control plane and who asks have the other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.area_plot import Panel, draw
from benchmarks.cluster_usage import (
    WINDOW_S,
    Usage,
    allocatable_cores,
    fit,
    free_cores,
    mean_requested,
    mean_used,
    steps,
    used_by_window,
)
from benchmarks.figures import Figure, number_text, report, show
from benchmarks.job_process import DEADLINE_S, end_jobs_on_sigterm
from benchmarks.latency_service import quantile
from benchmarks.pods import ServedPods, SubmittedJob
from benchmarks.workloads import WORKLOADS
from tests.cluster import cluster as clusters
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.kubernetes.disturbances import priorities
from tests.kubernetes.real_jobs import shared_directory

POLL_S = 1.0
GANG, ELASTIC = "gang", "elastic"
ALONE, TOGETHER = "alone", "with a job"
_MEMORY = "1536Mi"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
      model: among `WORKLOADS`.
      num_workers: of each job.
      num_epochs: of each of the two jobs.
      worker_cpu: cores that a worker of these requests, and may use.
      other_cpu: cores that a master and a parameter server request, each.
      beside_workers: of the job beside the service, at most.
      beside_cpu: cores that a worker of that job requests.
      beside_limit: cores that it may use.
      service_cpu: cores that a pod of the service requests.
      service_pods: how many of those there are in turn.
      per_s: requests a second for each pod of the service.
      wave_s: how long each number of pods stays.
    """

    model: str
    num_workers: int
    num_epochs: int
    worker_cpu: float
    other_cpu: float
    beside_workers: int
    beside_cpu: float
    beside_limit: float
    service_cpu: float
    service_pods: tuple[int, ...]
    per_s: float
    wave_s: float


@contextmanager
def cluster_for_jobs() -> Iterator[Cluster]:
    """A cluster of two nodes, with a core each that the control plane has its part of."""
    with _cluster(cores=_cores()) as cluster:
        yield cluster


@contextmanager
def cluster_for_a_service() -> Iterator[Cluster]:
    """A cluster of one node, whose pods have a core; this process and the control plane another."""
    own, of_pods = _cores()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {own})  # What it starts inherits it, but for what is told otherwise.
    try:
        with _cluster(nodes=1, cpus=1.0, cores=[of_pods]) as cluster:
            yield cluster
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _cluster(**how: Any) -> Iterator[Cluster]:
    if reason := clusters.why_not():
        raise SystemExit(f"no cluster can be here: {reason}")
    if clusters.is_up():
        raise SystemExit("there is a cluster already: python -m tests.cluster down")
    try:
        yield clusters.up(show=_tell, **how)
    finally:
        clusters.down()


def _cores() -> list[int]:
    """Two cores of this machine."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores: there is one")
    return cores[:2]


@contextmanager
def own_namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace, of whose pods none is left afterwards: they would take the next ones' time."""
    made = cluster.new_namespace()
    try:
        yield made
    finally:
        cluster.api.delete_namespace(made.name)
        path = f"/api/v1/namespaces/{made.name}/pods"
        wait_until(lambda: not cluster.api.call("GET", path)["items"], "no pod is left", DEADLINE_S)


def options_of(settings: Settings, cpu: float, limit: float, **more: str) -> dict[str, str]:
    """The options of a job, but for those of its place.

    Args:
      settings: of the benchmark.
      cpu: cores that a worker requests.
      limit: cores that it may use.
      more: options besides.
    """
    workload = WORKLOADS[settings.model]
    data = workload.prepare(settings.model).resolve() / "train" / "*.recordio"
    other = f"cpu={settings.other_cpu:g}"
    return {
        "model_zoo": str(Path("model_zoo").resolve()),
        "model_def": workload.model_def,
        "params": workload.params_text,
        "data": str(data),
        "minibatch_size": str(workload.minibatch_size),
        "num_ps": "1",
        "worker_resource_request": f"cpu={cpu:g},memory={_MEMORY}",
        "worker_resource_limit": f"cpu={limit:g},memory={_MEMORY}",
        "master_resource_request": f"{other},memory=1Gi",
        "ps_resource_request": f"{other},memory=1Gi",
        **more,
    }


# ------------------------------------------------------------------- two jobs


def measure_two_jobs(cluster: Cluster, settings: Settings, way: str) -> dict[str, Any]:
    """Run both jobs, one way or the other; return how it went."""
    num_workers = f"{settings.num_workers}" if way == GANG else f"1..{settings.num_workers}"
    pods = [settings.worker_cpu] * settings.num_workers + [settings.other_cpu] * 2
    jobs: list[SubmittedJob] = []
    with ExitStack() as stack:
        directories = [stack.enter_context(shared_directory()) for _ in range(2)]
        namespace = stack.enter_context(own_namespace(cluster))
        usage = stack.enter_context(Usage(cluster, namespace.name))
        allocatable = allocatable_cores(cluster)
        began = time.time()
        waiting = ["first", "second"]
        running: list[SubmittedJob] = []
        while waiting or running:
            reserved = pods * (len(running) + 1)
            has_room = fit(reserved, allocatable) and fit(pods, free_cores(cluster))
            if waiting and (way == ELASTIC or has_room):
                options = options_of(
                    settings,
                    settings.worker_cpu,
                    settings.worker_cpu,
                    num_workers=num_workers,
                    num_epochs=str(settings.num_epochs),
                )
                directory = directories[len(jobs)]
                job = SubmittedJob(namespace, directory, waiting.pop(0), options)
                stack.callback(job.close)
                jobs.append(job)
                _tell(f"{way}: the {job.name} job is submitted, {time.time() - began:.0f} s")
            time.sleep(POLL_S)
            running = [job for job in jobs if not job.check()]
        ended = max(job.ended_at for job in jobs)
        seen = usage.between(began, ended)
        facts = {job.name: job.facts(began) for job in jobs}
    _tell(f"{way}: both have ended, {ended - began:.0f} s")
    return {
        "total_s": ended - began,
        "mean_requested": mean_requested(seen),
        "mean_used": mean_used(seen),
        "allocatable": usage.allocatable,
        "jobs": facts,
        "steps": steps(seen, began),
        "used_by_window": used_by_window(seen, began),
    }


def figures_of_jobs(found: Mapping[str, Any]) -> list[Figure]:
    """What is told of both ways."""
    gang, elastic = found[GANG], found[ELASTIC]
    figures = []
    for way in (GANG, ELASTIC):
        one = found[way]
        figures += [
            Figure(f"two jobs, {way}: total", one["total_s"], "s", less_is_better=True),
            Figure(f"two jobs, {way}: cores requested, mean", one["mean_requested"], "cores"),
            Figure(f"two jobs, {way}: cores used, mean", one["mean_used"], "cores"),
        ]
    return [
        *figures,
        Figure("two jobs: total, elastic/gang", elastic["total_s"] / gang["total_s"], at_most=1.0),
        Figure(
            "two jobs: cores requested, elastic/gang",
            elastic["mean_requested"] / gang["mean_requested"],
            at_least=1.0,
        ),
    ]


def picture_of_jobs(found: Mapping[str, Any]) -> str:
    """Draw the cores that the jobs' pods request over time."""
    panels = []
    for way in (GANG, ELASTIC):
        one = found[way]
        title = (
            f"{way}: {one['total_s']:.0f} s, {one['mean_requested']:.2f} of "
            f"{one['allocatable']:.2f} cores on average"
        )
        panels.append(_cores_panel(title, one))
    return draw("Cores requested by the running pods of two jobs", panels)


# -------------------------------------------------------------------- service


def measure_service(cluster: Cluster, settings: Settings, way: str) -> dict[str, Any]:
    """Ask the service for all its waves, alone or with a job beside it; return how it went."""
    with ExitStack() as stack:
        classes = stack.enter_context(priorities(cluster.api))
        directory = stack.enter_context(shared_directory())
        namespace = stack.enter_context(own_namespace(cluster))
        service = ServedPods(cluster, namespace, settings.service_cpu)
        service.scale(settings.service_pods[0])
        jobs = []
        if way == TOGETHER:
            options = options_of(
                settings,
                settings.beside_cpu,
                settings.beside_limit,
                num_workers=f"1..{settings.beside_workers}",
                num_epochs="100000",
                **classes,
            )
            job = SubmittedJob(namespace, directory, "job", options)
            stack.callback(job.close)
            jobs.append(job)
            job.wait_for_workers(settings.beside_workers)
        usage = stack.enter_context(Usage(cluster, namespace.name))
        began = time.time()
        waves = [
            _wave(cluster, service, settings, number, pods)
            for number, pods in enumerate(settings.service_pods)
        ]
        ended = time.time()
        for job in jobs:
            job.check()
        seen = usage.between(began, ended)
        tasks_done = [job.tasks_done() for job in jobs]
    latencies = [one for wave in waves for one in wave["latencies"]]
    return {
        "p50_ms": quantile([took for _, took in latencies], 0.5),
        "p99_ms": quantile([took for _, took in latencies], 0.99),
        "requests": len(latencies),
        "errors": [one for wave in waves for one in wave["errors"]],
        "ready_s": [wave["ready_s"] for wave in waves],
        "used": mean_used(seen),
        "requested": mean_requested(seen),
        "allocatable": usage.allocatable,
        "tasks_done": tasks_done,
        "p99_by_window": p99_by_window([(at - began, took) for at, took in latencies]),
        "steps": steps(seen, began),
        "used_by_window": used_by_window(seen, began),
    }


def _wave(
    cluster: Cluster, service: ServedPods, settings: Settings, number: int, pods: int
) -> dict[str, Any]:
    """Have so many pods, and ask them once they are ready: whoever scales a service foresees it."""
    began = time.monotonic()
    service.scale(pods)
    service.wait_until_ready(pods)
    ready_s = time.monotonic() - began
    found = service.load(settings.per_s * pods, settings.wave_s, seed=number)
    _tell(f"{pods} pods of the service, ready after {ready_s:.1f} s")
    return {**found, "ready_s": ready_s}


def figures_of_service(found: Mapping[str, Any]) -> list[Figure]:
    """What is told of the service alone and with a job beside it."""
    alone, together = found[ALONE], found[TOGETHER]
    return [
        Figure("service alone: p99", alone["p99_ms"], "ms", less_is_better=True),
        Figure("service with a job: p99", together["p99_ms"], "ms", less_is_better=True),
        Figure("service: p99, with a job/alone", together["p99_ms"] / alone["p99_ms"], at_most=1.2),
        # Alone it stood still for seconds in some runs: there is nothing to compare with then.
        Figure("service alone: p99/median", alone["p99_ms"] / alone["p50_ms"], at_most=5),
        Figure("service with a job: not answered", len(together["errors"]), at_most=0),
        Figure("service alone: cores used/allocatable", alone["used"] / alone["allocatable"]),
        Figure(
            "service with a job: cores used/allocatable",
            together["used"] / together["allocatable"],
            at_least=0.9,
        ),
        Figure(
            "service with a job: cores requested/allocatable",
            together["requested"] / together["allocatable"],
        ),
        Figure(
            "service with a job: pods ready after, worst",
            max(together["ready_s"]),
            "s",
            less_is_better=True,
        ),
    ]


def picture_of_service(found: Mapping[str, Any]) -> str:
    """Draw who has the cores, and how long answers take."""
    panels = []
    for way in (ALONE, TOGETHER):
        one = found[way]
        share = number_text(one["used"] / one["allocatable"])
        panels.append(_cores_panel(f"{way}: {share} of what can be requested is used", one))
        title = f"{way}: p99 {one['p99_ms']:.1f} ms; here of every {WINDOW_S:.0f} s"
        panels.append(Panel(title, "ms", lines={"p99": one["p99_by_window"]}))
    return draw("A service, and a job that takes what it leaves", panels)


def p99_by_window(latencies: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The middle of each span of `WINDOW_S`, and the p99 of what was asked for in it."""
    windows: dict[int, list[float]] = {}
    for at, took in latencies:
        windows.setdefault(int(at / WINDOW_S), []).append(took)
    return [
        ((number + 0.5) * WINDOW_S, round(quantile(windows[number], 0.99), 2))
        for number in sorted(windows)
    ]


# --------------------------------------------------------------------- common


def _cores_panel(title: str, found: Mapping[str, Any]) -> Panel:
    steps = found["steps"]
    whose = sorted({name for one in steps for name in one["requested"]})
    return Panel(
        title,
        "cores",
        [one["at_s"] for one in steps],
        {name: [one["requested"].get(name, 0.0) for one in steps] for name in whose},
        {"used by all": found["used_by_window"]},
        mark=found["allocatable"],
    )


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


class Experiment(NamedTuple):
    """What is measured one way and the other.

    Attributes:
      cluster: where.
      ways: their names.
      measure: one of them.
      figures_of: what was found.
      picture_of: the same, as SVG.
    """

    cluster: Callable[[], AbstractContextManager[Cluster]]
    ways: tuple[str, str]
    measure: Callable[[Cluster, Settings, str], dict[str, Any]]
    figures_of: Callable[[Mapping[str, Any]], list[Figure]]
    picture_of: Callable[[Mapping[str, Any]], str]


EXPERIMENTS = {
    "jobs": Experiment(
        cluster_for_jobs, (GANG, ELASTIC), measure_two_jobs, figures_of_jobs, picture_of_jobs
    ),
    "service": Experiment(
        cluster_for_a_service,
        (ALONE, TOGETHER),
        measure_service,
        figures_of_service,
        picture_of_service,
    ),
}


def measure(settings: Settings, only: Sequence[str]) -> tuple[dict[str, Any], list[Figure]]:
    """Do the experiments; return all that was found, and the figures."""
    found: dict[str, Any] = {}
    figures: list[Figure] = []
    for name in only:
        experiment = EXPERIMENTS[name]
        with experiment.cluster() as cluster:
            found[name] = {
                way: experiment.measure(cluster, settings, way) for way in experiment.ways
            }
        figures += experiment.figures_of(found[name])
    return found, figures


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elastic_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="one of them")
    parser.add_argument("--model", choices=WORKLOADS, default="mnist")
    parser.add_argument("--num_workers", type=int, default=3, help="of each of the two jobs")
    parser.add_argument("--num_epochs", type=int, default=18, help="of each of the two jobs")
    parser.add_argument("--worker_cpu", type=float, default=0.3, help="of the two jobs")
    parser.add_argument("--other_cpu", type=float, default=0.05, help="of master and PS")
    parser.add_argument("--beside_workers", type=int, default=2, help="of the job with the service")
    parser.add_argument("--beside_cpu", type=float, default=0.01, help="that each of them requests")
    parser.add_argument("--beside_limit", type=float, default=1.0, help="and may use")
    parser.add_argument("--service_cpu", type=float, default=0.2, help="that each pod requests")
    parser.add_argument("--service_pods", default="1,4,1,4", help="how many there are in turn")
    parser.add_argument("--per_s", type=float, default=20.0, help="requests, for each of those")
    parser.add_argument("--wave_s", type=float, default=30.0, help="how long for")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all here, and plots next to it"
    )
    given = parser.parse_args()
    only = given.only.split(",")
    for each in only:
        if each not in EXPERIMENTS:
            parser.error(f"--only '{each}': not one of {', '.join(EXPERIMENTS)}")
    settings = Settings(
        given.model,
        given.num_workers,
        given.num_epochs,
        given.worker_cpu,
        given.other_cpu,
        given.beside_workers,
        given.beside_cpu,
        given.beside_limit,
        given.service_cpu,
        tuple(map(int, given.service_pods.split(","))),
        given.per_s,
        given.wave_s,
    )
    load = os.getloadavg()[0]
    found, figures = measure(settings, only)
    show("elastic cluster", figures)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"load_before": load, **report(figures, **asdict(settings)), "found": found}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        for name in only:
            picture = given.json.with_name(f"{given.json.stem}-{name}.svg")
            picture.write_text(EXPERIMENTS[name].picture_of(found[name]))
            _tell(f"the plot: {picture}")
    return int(given.check and not all(each.is_met for each in figures))


if __name__ == "__main__":
    end_jobs_on_sigterm()
    raise SystemExit(main())
