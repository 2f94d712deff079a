"""A training job on this machine that is disturbed while it runs: killed, joined and left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job_process import DEADLINE_S, POLL_S, JobProcess
from elasticdl.api.supervisor import FILE_NAME


@dataclass(frozen=True)
class Kill:
    """One process that was killed, and when, in seconds since the epoch."""

    role: str
    index: int
    incarnation: int
    at: float


class DisturbedJob(JobProcess):
    """A job whose processes are killed; see `JobProcess`.

    Attributes:
      kills: its processes that were killed.
    """

    def __init__(self, place: Path, options: Mapping[str, object]) -> None:
        super().__init__(place, options)
        self.kills: list[Kill] = []

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
        processes = self.processes()
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
