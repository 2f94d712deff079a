"""Jobs as people run them: the command line and real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from elasticdl.api.launcher import connect_to_master
from elasticdl.errors import JobError
from elasticdl.master.journal import read_journal
from elasticdl.proto import master_pb2
from elasticdl.rpc import RpcError
from tests.job.clicks_data import ZOO

RECORDS = 4000
DEADLINE_S = 280.0


def processes_of(job_dir: Path) -> list[str]:
    """Command lines of all processes that name the job's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            is_terminal = "elasticdl.api train" in line or "elasticdl.api predict" in line
            if f"--job_dir={job_dir}" in line and not is_terminal:
                found.append(f"{entry.name}: {line}")
    return found


def wait_until(what: str, condition, deadline_s: float = DEADLINE_S):
    """Poll until `condition()` is true and return it; fail by name after the deadline."""
    ends = time.monotonic() + deadline_s
    while time.monotonic() < ends:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s:.0f} s for: {what}")


class Job:
    """A job started from the command line."""

    def __init__(
        self, tmp_path: Path, data: str, records: int, *options: str, **environment: str
    ) -> None:
        self.records = records
        self.directory = tmp_path / "job"
        self.output = tmp_path / "model"
        self.log = (tmp_path / "terminal").open("w+")
        arguments = [
            "--model_zoo=" + ZOO,
            "--model_def=clicks.Clicks",
            f"--data={data}",
            f"--output={self.output}",
            f"--job_dir={self.directory}",
            "--num_workers=2",
            "--num_ps=2",
            "--minibatch_size=8",
        ]
        given = {option.partition("=")[0] for option in options}
        arguments = [one for one in arguments if one.partition("=")[0] not in given]
        arguments += options
        self._temporary = tmp_path / "temporary"
        self._temporary.mkdir()
        self._environment = {"TMPDIR": str(self._temporary), **environment}
        self._begin("train", *arguments)

    def _begin(self, command: str, *arguments: str) -> None:
        self.process = self._run(command, *arguments)
        self._master = None

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "elasticdl.api", *words],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment},
        )

    def resume(self) -> None:
        """Go on with the job, once what was left of it has ended."""
        wait_until("the end of its processes", lambda: not processes_of(self.directory), 15.0)
        self._master = None
        self.process = self._run("jobs", "resume", str(self.directory))

    def status(self) -> master_pb2.JobStatus | None:
        """What the master says, or None while it cannot be asked."""
        assert self.process.poll() is None, f"the job ended early:\n{self.terminal()}"
        if self._master is None:
            self._master = connect_to_master(self.directory)
        try:
            return self._master and self._master.call("GetStatus", master_pb2.StatusRequest(), 2.0)
        except RpcError:
            return None

    def running(self, role: str) -> list[master_pb2.InstanceStatus]:
        status = self.status()
        instances = status.instances if status is not None else []
        return [i for i in instances if i.instance.role == role and i.state == "running" and i.pid]

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """What the journal has of a kind; nothing before there is one."""
        try:
            return [one.body for one in read_journal(self.directory, kind)]
        except JobError:
            return []

    def records_done(self) -> int:
        status = self.status()
        return status.records_done if status is not None and status.phase == "training" else 0

    def kill_everything(self) -> None:
        """SIGKILL the terminal's process and every other."""
        self.process.kill()
        self.process.wait()
        for line in processes_of(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def terminal(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def assert_nothing_is_left(self) -> None:
        wait_until("the end of its processes", lambda: not processes_of(self.directory), 15.0)
        assert not (self.directory / "tmp").exists()
        wait_until("the end of its temporary files", lambda: not [*self._temporary.iterdir()], 15.0)
        left = [one for one in self.output.parent.iterdir() if "partial" in one.name]
        assert not left, "half a trained model was left"


class PredictJob(Job):
    """A job that predicts with a trained model, into `predictions.csv` beside its directory."""

    def __init__(self, tmp_path: Path, trained: str, data: str, records: int) -> None:
        self.records = records
        self.directory = tmp_path / "predict"
        self.output = tmp_path / "predictions.csv"
        self.log = (tmp_path / "terminal-predict").open("w+")
        self._temporary = tmp_path / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._environment = {"TMPDIR": str(self._temporary)}
        self._begin(
            "predict",
            f"--trained_model={trained}",
            f"--data={data}",
            f"--output={self.output}",
            f"--job_dir={self.directory}",
            "--num_workers=2",
            "--num_ps=2",
            "--minibatch_size=8",
            "--records_per_task=80",
            "--keep_columns=row",
        )
