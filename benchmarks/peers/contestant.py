"""What every contestant is told, how it is started in a process of its own, and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

_DEADLINE_S = 900.0
_MEETING_S = 300.0
_POLL_S = 0.002


@dataclass(frozen=True)
class Request:
    """One measurement.

    Attributes:
      workload: the model, among `benchmarks.peers.workloads.WORKLOADS`.
      directory: of the minibatches; see `benchmarks.peers.data`.
      form: which files are read: ``ready`` minibatches, or ``parsed`` Examples.
      warm_up_s: seconds of training before those that count.
      seconds: of training that count.
      cores: the only ones that may be used; none: all that there are.
      num_workers: where there are any.
      num_ps: parameter servers of a job.
      staleness: of an async job.
      meeting: a directory in which all that are to begin at once meet; none: it is measured alone.
      parties: how many meet there.
    """

    workload: str
    directory: str
    form: str
    warm_up_s: float
    seconds: float
    cores: tuple[int, ...] = ()
    num_workers: int = 1
    num_ps: int = 1
    staleness: int = 2
    meeting: str = ""
    parties: int = 1

    @property
    def place(self) -> Path:
        """The directory as a path."""
        return Path(self.directory)

    @property
    def threads(self) -> int:
        """As many as there are cores to use."""
        return len(self.cores or os.sched_getaffinity(0))


@dataclass(frozen=True)
class Answer:
    """What was measured.

    Attributes:
      samples: trained in the time that counts.
      seconds: that it was.
      cpu_seconds: processor time used in it, by role.
    """

    samples: float
    seconds: float
    cpu_seconds: dict[str, float]

    @property
    def samples_per_s(self) -> float:
        """The speed."""
        return self.samples / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The speed, and processor seconds per million samples by role."""
        million = self.samples / 1e6
        return {
            "samples_per_s": self.samples_per_s,
            "cpu_seconds_per_million": {
                role: seconds / million for role, seconds in self.cpu_seconds.items()
            },
        }


def run(module: str, request: Request, *words: str) -> Answer:
    """Run a contestant's module, which measures its speed, in a process of its own."""
    return Answer(**ask(module, request, *words))


def run_together(module: str, requests: Sequence[Request]) -> Answer:
    """Run a contestant's module in several processes at once; their speeds are added up."""
    with tempfile.TemporaryDirectory(prefix="elasticdl-peers-") as place:
        together = [replace(one, meeting=place, parties=len(requests)) for one in requests]
        with ThreadPoolExecutor(len(together)) as pool:
            answers = list(pool.map(lambda one: run(module, one), together))
    seconds = answers[0].seconds
    used = sum(one.cpu_seconds["process"] * seconds / one.seconds for one in answers)
    samples = sum(one.samples_per_s for one in answers) * seconds
    return Answer(samples, seconds, {"process": used})


def ask(module: str, request: Request, *words: str) -> dict[str, Any]:
    """Run a contestant's module in a process of its own and return what it tells.

    Raises:
      SystemExit: it failed; says how.
    """
    command = [sys.executable, "-m", module, json.dumps(asdict(request)), *words]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    ended = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def start(words: list[str]) -> Request:
    """Read the request in a contestant's process, and keep to its cores from now on."""
    given = json.loads(words[1])
    request = Request(**{**given, "cores": tuple(given["cores"])})
    if request.cores:
        os.sched_setaffinity(0, request.cores)
    return request


def answer(found: Mapping[str, Any]) -> NoReturn:
    """Tell what was found, as the last thing of a contestant's process."""
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # Whatever threads there are need not be waited for.


class Stopwatch:
    """Times the steps of a loop in this process, those of the warm-up left out.

    Args:
      request: says how long.
      samples_per_step: trained by each step.
    """

    def __init__(self, request: Request, samples_per_step: int) -> None:
        self._request = request
        self._samples_per_step = samples_per_step
        self._began: float | None = None
        self._counts_from: tuple[float, float] | None = None
        self._steps = 0
        self.found: Answer | None = None

    def after(self, steps: int) -> bool:
        """Note that steps were done; return whether it is enough.

        The time until the first call, in which functions are traced, is no part of the warm-up.
        """
        now, cpu = time.perf_counter(), time.process_time()
        if self._began is None:
            self._began = now
        if self._counts_from is None:
            if now - self._began >= self._request.warm_up_s:
                self._counts_from = now, cpu
            return False
        self._steps += steps
        since, cpu_before = self._counts_from
        if now - since < self._request.seconds:
            return False
        samples = self._steps * self._samples_per_step
        self.found = Answer(samples, now - since, {"process": cpu - cpu_before})
        return True


def _meet(request: Request) -> None:
    """Wait until all that are to begin at once are ready.

    Raises:
      SystemExit: one does not come.
    """
    place = Path(request.meeting)
    (place / str(os.getpid())).touch()
    ends = time.monotonic() + _MEETING_S
    while len(list(place.iterdir())) < request.parties:
        if time.monotonic() > ends:
            raise SystemExit(f"{request.parties} processes did not meet in {_MEETING_S:.0f} s")
        time.sleep(_POLL_S)


def measure(step: Callable[[], object], request: Request, samples_per_step: int) -> Answer:
    """Time a step that is repeated, from when all who are to begin at once have done one."""
    if request.meeting:
        step()
        _meet(request)
    watch = Stopwatch(request, samples_per_step)
    while True:
        step()
        if watch.after(1):
            assert watch.found is not None
            return watch.found
