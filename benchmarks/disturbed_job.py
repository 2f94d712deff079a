"""A training job on this machine that is disturbed while it runs: killed, joined and left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.api import jobs
from elasticdl.api.launcher import connect_to_master
from elasticdl.api.supervisor import FILE_NAME
from elasticdl.master.master import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import RpcError

DEADLINE_S = 600.0
POLL_S = 0.1


def end_jobs_on_sigterm() -> None:
    """Have SIGTERM end this process like an exception, so that the jobs it has begun end, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@dataclass(frozen=True)
class Kill:
    """One process that was killed, and when, in seconds since the epoch."""

    role: str
    index: int
    incarnation: int
    at: float


class DisturbedJob:
    """A job of `elasticdl train`, as a process of its own.

    Args:
      place: a directory for the job's, its model and what it prints.
      options: of `train`, by name; those that are "" are left out.

    Attributes:
      directory: the job's.
      kills: its processes that were killed.
    """

    def __init__(self, place: Path, options: Mapping[str, object]) -> None:
        self.directory = place / "job"
        self.kills: list[Kill] = []
        self._terminal = place / "terminal"
        given = {**options, "job_dir": self.directory, "output": place / "model"}
        words = [f"--{name}={value}" for name, value in given.items() if value != ""]
        with self._terminal.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "elasticdl.api", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended so far."""
        return self._process.poll() is None

    def status(self) -> master_pb2.JobStatus | None:
        """Where it stands; None while the master cannot be asked."""
        master = connect_to_master(self.directory)
        if master is None:
            return None
        try:
            return master.call("GetStatus", master_pb2.StatusRequest(), 2.0)
        except RpcError:
            return None
        finally:
            master.close()

    def records_done(self) -> int | None:
        """Records counted so far; None while the master cannot be asked."""
        status = self.status()
        return None if status is None else int(status.records_done)

    def wait_for_records(self, more_than: int) -> int:
        """Return once more records are counted."""
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            if not self.is_running:
                raise SystemExit(f"the job has ended:\n{self.said()}")
            done = self.records_done()
            if done is not None and done > more_than:
                return done
            time.sleep(POLL_S)
        raise SystemExit(f"no record was counted in {DEADLINE_S:.0f} s")

    def wait_for_spares(self, number: int) -> None:
        """Return once so many of its spares are ready."""
        ends = time.monotonic() + DEADLINE_S
        while self.is_running and time.monotonic() < ends:
            spares = json.loads((self.directory / FILE_NAME).read_text())["spares"]
            if sum(spare["is_ready"] for spare in spares.values()) >= number:
                return
            time.sleep(POLL_S)
        raise SystemExit(f"no {number} spares were ready:\n{self.said()}")

    def kill(self, role: str, chance: random.Random) -> Kill | None:
        """Kill one process of a role; nothing happens if none is there at the moment."""
        processes = json.loads((self.directory / FILE_NAME).read_text())["processes"]
        victims = sorted(name for name in processes if name.partition("-")[0] == role)
        if not victims:
            return None
        name = chance.choice(victims)
        index, _, incarnation = name.partition("-")[2].partition(".")
        kill = Kill(role, int(index or 0), int(incarnation or 0), time.time())
        try:
            os.kill(processes[name], signal.SIGKILL)
        except ProcessLookupError:
            return None
        self.kills.append(kill)
        return kill

    def result(self) -> dict[str, Any]:
        """Wait for its end and return how it ended.

        Raises:
          SystemExit: it failed.
        """
        if self._process.wait(DEADLINE_S) != 0:
            raise SystemExit(f"the job has failed:\n{self.said()}")
        return json.loads((self.directory / RESULT_FILE).read_text())

    def end(self) -> None:
        """Stop it, if it still runs."""
        if self.is_running:
            jobs.stop(str(self.directory))
        self._process.wait(DEADLINE_S)

    def said(self) -> str:
        """The end of what it printed."""
        return self._terminal.read_text(errors="replace")[-2000:]
