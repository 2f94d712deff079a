"""A training job on this machine, begun as people begin one, and watched from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elasticdl.api import jobs
from elasticdl.api.launcher import connect_to_master
from elasticdl.api.supervisor import FILE_NAME
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import RpcError

DEADLINE_S = 600.0
POLL_S = 0.1


def end_jobs_on_sigterm() -> None:
    """Have SIGTERM end this process like an exception, so that the jobs it has begun end, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class JobProcess:
    """A job of `elasticdl train`, as a process of its own.

    Args:
      place: a directory for the job's, its model and what it prints.
      options: of `train`, by name; those that are "" are left out.

    Attributes:
      directory: the job's.
    """

    def __init__(self, place: Path, options: Mapping[str, object]) -> None:
        self.directory = place / "job"
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

    def processes(self) -> dict[str, int]:
        """Process ids of its instances by name, as ``worker-0.1``; none before there are any."""
        try:
            return json.loads((self.directory / FILE_NAME).read_text())["processes"]
        except FileNotFoundError:
            return {}

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
