"""A job of `elasticdl train`, as people run it: its supervisor, master, parameter server, workers.

All are processes of their own. Nothing of the job is replaced or left out. It
reads its data from files like any other: ready columns from an Arrow file, which is mapped into
memory and needs no parsing, but has to be read, cut into minibatches and deduplicated all the same;
or Examples from a RecordIO file, parsed one by one by the model's input function. Records keep
their order (``--shuffle=false``), as those of all others do.

The speed is told by the job's journal: for each worker, the records of the tasks that it closed
after the first one that it closed in the time that counts, divided by the time from that to the
last; those of all workers are added up. The processor time of each role, the master's included, is
that of the same seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job_process import DEADLINE_S, POLL_S, JobProcess
from benchmarks.peers.contestant import Answer, Request
from benchmarks.peers.processes import cpu_seconds, is_pinned, pin
from benchmarks.peers.workloads import WORKLOADS
from elasticdl.master.journal import Entry, read_journal

FILES = {"ready": "arrow", "parsed": "recordio"}
_LEAST_TASKS = 3  # that each worker closes in the time that counts


@dataclass(frozen=True)
class Cores:
    """Which cores a job's processes may use.

    Attributes:
      workers: one for each worker.
      ps: one for each parameter server.
      others: everything else's.
    """

    workers: tuple[int, ...]
    ps: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def apart(cls, workers: int = 1, ps: int = 1) -> Cores | None:
        """A core for each worker and each parameter server, if there are as many."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < workers + ps:
            return None
        rest = cores[workers:]
        return cls(tuple(cores[:workers]), tuple(rest[:ps]), tuple(rest[ps:] or rest))

    def of(self, name: str) -> tuple[int, ...]:
        """The cores of an instance, by a name like ``worker-0.1``."""
        role, _, number = name.partition("-")
        pinned = {"worker": self.workers, "ps": self.ps}.get(role)
        return self.others if pinned is None else (pinned[int(number.partition(".")[0])],)


def options(request: Request, consistency: str) -> dict[str, object]:
    """Return the job's options, as `elasticdl train` takes them."""
    workload = WORKLOADS[request.workload]
    return {
        "model_zoo": workload.model_zoo,
        "model_def": workload.model_def,
        "data": request.place / f"train.{FILES[request.form]}",
        "minibatch_size": workload.minibatch_size,
        "records_per_task": workload.minibatches_per_task * workload.minibatch_size,
        "num_workers": request.num_workers,
        "num_ps": request.num_ps,
        "consistency": consistency,
        "staleness": request.staleness if consistency == "async" else "",
        "shuffle": "false",
        "checkpoint_secs": 0,
    }


def measure(request: Request, consistency: str = "async", cores: Cores | None = None) -> Answer:
    """Run a job, measure it while it trains, and stop it.

    Args:
      cores: where its processes run; anywhere unless given.
    """
    with tempfile.TemporaryDirectory(prefix="elasticdl-peers-") as place:
        here = os.sched_getaffinity(0)
        endless = {**options(request, consistency), "num_epochs": 1_000_000}
        try:
            if cores is not None:
                os.sched_setaffinity(0, cores.others)
            job = JobProcess(Path(place), endless)
        finally:
            os.sched_setaffinity(0, here)
        try:
            if cores is not None:
                _pin_instances(job, cores)
            job.wait_for_records(0)
            time.sleep(request.warm_up_s)
            return _watch(job, request, cores)
        finally:
            job.end()


def _pin_instances(job: JobProcess, cores: Cores) -> None:
    """Pin parameter servers and workers as soon as they are there: before they start threads."""
    ends = time.monotonic() + DEADLINE_S
    pinned: set[str] = set()
    while len(pinned) < len(cores.workers) + len(cores.ps):
        if not job.is_running or time.monotonic() > ends:
            raise SystemExit(f"the job did not start:\n{job.said()}")
        for name, pid in job.processes().items():
            if _role(name) in ("worker", "ps") and name not in pinned:
                pin(pid, cores.of(name))
                pinned.add(name)
        time.sleep(POLL_S / 10)


def _role(name: str) -> str:
    return name.partition("-")[0]


def _watch(job: JobProcess, request: Request, cores: Cores | None) -> Answer:
    processes = job.processes()
    began, before = time.time(), _used(processes)
    ends = began + DEADLINE_S
    while True:
        time.sleep(request.seconds if time.time() - began < request.seconds else 1.0)
        until, after = time.time(), _used(processes)
        if job.processes() != processes or not job.is_running:
            raise SystemExit(f"an instance of the job has ended:\n{job.said()}")
        speeds = speeds_of(read_journal(job.directory), began, until)
        if len(speeds) == request.num_workers:
            break
        if until > ends:
            raise SystemExit(f"a worker closes no tasks:\n{job.said()}")
    if cores is not None:
        _check_pinned(processes, cores)
    used: dict[str, float] = defaultdict(float)
    for name in processes:
        used[_role(name)] += after[name] - before[name]
    seconds = until - began
    return Answer(sum(speeds.values()) * seconds, seconds, dict(used))


def _used(processes: dict[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in processes.items()}


def _check_pinned(processes: dict[str, int], cores: Cores) -> None:
    for name, pid in processes.items():
        if not is_pinned(pid, cores.of(name)):
            raise SystemExit(f"{name}: has a thread that may use other cores")


def speeds_of(entries: Iterable[Entry], began: float, until: float) -> dict[int, float]:
    """Return records per second of each worker that closed enough tasks in a time.

    Args:
      entries: of the job's journal.
      began: seconds since the epoch, likewise `until`.
    """
    sizes: dict[int, int] = {}
    holders: dict[int, int] = {}
    closed: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for entry in entries:
        body = entry.body
        if entry.kind == "tasks":
            for task, _, _, _, start, end, *_ in body["tasks"]:
                sizes[task] = end - start
        elif entry.kind == "granted":
            holders[body["task"]] = body.get("worker", 0)
        elif entry.kind == "done" and body["kind"] == "TRAINING" and began <= entry.time <= until:
            closed[holders[body["task"]]].append((entry.time, sizes[body["task"]]))
    return {worker: _speed(tasks) for worker, tasks in closed.items() if len(tasks) >= _LEAST_TASKS}


def _speed(closed: Sequence[tuple[float, int]]) -> float:
    (first, _), *rest = closed
    return sum(size for _, size in rest) / (rest[-1][0] - first)
