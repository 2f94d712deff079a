"""Plays a schedule of disturbances against the processes of a job, and notes what it did."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from elasticdl.api import jobs
from elasticdl.api.supervisor import FILE_NAME
from elasticdl.errors import ElasticDLError
from elasticdl.rpc import RpcError
from tests.chaos.schedule import Disturbance


def processes(job_dir: Path) -> dict[str, int]:
    """The job's processes by name, as the supervisor has written them down; itself included."""
    try:
        description = json.loads((job_dir / FILE_NAME).read_text())
    except (OSError, ValueError):
        return {}
    spares = {name: spare["pid"] for name, spare in description["spares"].items()}
    return {**description["processes"], **spares, "supervisor": description["pid"]}


def belongs_to(pid: int, job_dir: Path) -> bool:
    """Whether a process of this id lives and is one of the job's."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"--job_dir={job_dir}".encode() in line.split(b"\0")


class Disturber:
    """Disturbs one job from a thread of its own, until the schedule or the job is over.

    Args:
      job_dir: the job's directory.
      schedule: what is done to it.
      may_begin: the schedule begins once this says so.

    Attributes:
      notes: what was done, when, to whom.
      counts: how often, by what was done to which role.
    """

    def __init__(
        self, job_dir: Path, schedule: Sequence[Disturbance], may_begin: Callable[[], object]
    ) -> None:
        self.notes: list[str] = []
        self.counts: Counter[str] = Counter()
        self._job_dir = job_dir
        self._schedule = schedule
        self._may_begin = may_begin
        self._began = time.monotonic()
        self._over = threading.Event()
        self._stopped: dict[int, float] = {}
        self._scaling: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="disturber", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Disturb no more; what was stopped goes on."""
        self._over.set()
        self._thread.join()
        self._let_go_on(everybody=True)
        for thread in self._scaling:
            thread.join()

    def _run(self) -> None:
        while not self._may_begin():
            if self._over.wait(0.05):
                return
        self._began = time.monotonic()
        for one in self._schedule:
            self._rest(one.pause_s)
            while not self._is_supervised() and not self._over.is_set():
                # It is resumed when its last process has ended, which one that is stopped cannot.
                self._let_go_on(everybody=True)
                self._rest(0.1)
            if self._over.is_set():
                return
            self._disturb(one)
        while self._stopped and not self._over.is_set():
            self._rest(max(0.0, min(self._stopped.values()) - time.monotonic()))

    def _is_supervised(self) -> bool:
        pid = processes(self._job_dir).get("supervisor")
        return pid is not None and belongs_to(pid, self._job_dir)

    def _rest(self, seconds: float) -> None:
        """Let time pass, in which processes that were stopped long enough go on."""
        ends = time.monotonic() + seconds
        while not self._over.is_set():
            self._let_go_on()
            wakes = min([ends, *self._stopped.values()])
            left_s = wakes - time.monotonic()
            if left_s <= 0 and ends <= time.monotonic():
                return
            self._over.wait(max(0.0, left_s))

    def _let_go_on(self, everybody: bool = False) -> None:
        for pid, until in list(self._stopped.items()):
            if everybody or until <= time.monotonic():
                del self._stopped[pid]
                self._signal(pid, signal.SIGCONT)

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        if not belongs_to(pid, self._job_dir):
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def _scale(self, role: str, count: int) -> None:
        """Ask for another number of a role's processes; the master may be away, or refuse."""
        numbers = {"num_ps": count} if role == "ps" else {"num_workers": count}
        answer = "promised"
        try:
            jobs.scale(str(self._job_dir), **numbers)
            self.counts[f"{role} scaled"] += 1
        except (ElasticDLError, RpcError) as error:
            answer = str(error)
        at_s = time.monotonic() - self._began
        self.notes.append(f"{at_s:6.1f} s: {count} of {role} were wanted: {answer}")

    def _disturb(self, one: Disturbance) -> None:
        if one.scaled_to:
            thread = threading.Thread(target=self._scale, args=(one.role, one.scaled_to))
            self._scaling.append(thread)
            thread.start()
            return
        victims = sorted(
            (name, pid)
            for name, pid in processes(self._job_dir).items()
            if name.partition("-")[0] == one.role and pid not in self._stopped
        )
        at_s = time.monotonic() - self._began
        if not victims:
            self.notes.append(f"{at_s:6.1f} s: no {one.role} to disturb")
            return
        name, pid = victims[int(one.which * len(victims))]
        how = signal.SIGSTOP if one.stopped_s else signal.SIGKILL
        if not self._signal(pid, how):
            self.notes.append(f"{at_s:6.1f} s: {name} ({pid}) was gone already")
            return
        if one.stopped_s:
            self._stopped[pid] = time.monotonic() + one.stopped_s
        what = f"stopped for {one.stopped_s:.1f} s" if one.stopped_s else "killed"
        self.notes.append(f"{at_s:6.1f} s: {name} ({pid}) {what}")
        self.counts[f"{one.role} {'stopped' if one.stopped_s else 'killed'}"] += 1
