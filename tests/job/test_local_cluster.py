"""Whole jobs as people run them: the command line, real processes, SIGKILL."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.launcher import connect_to_master
from elasticdl.proto import master_pb2
from elasticdl.rpc import RpcError
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.keras_evaluate import keras_evaluate

RECORDS = 4000
DEADLINE_S = 280.0
NOBODY = master_pb2.JobStatus()


def processes_of(job_dir: Path) -> list[str]:
    """Command lines of all processes that name the job's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"--job_dir={job_dir}" in line and "elasticdl.api train" not in line:
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

    def __init__(self, tmp_path: Path, data: str, *options: str, **environment: str) -> None:
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
        self.process = subprocess.Popen(
            [sys.executable, "-m", "elasticdl.api", "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        self._master = None

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

    def records_done(self) -> int:
        status = self.status()
        return status.records_done if status is not None and status.phase == "training" else 0

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def terminal(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def assert_nothing_is_left(self) -> None:
        wait_until("the end of its processes", lambda: not processes_of(self.directory), 15.0)
        assert not (self.directory / "tmp").exists()
        left = [one for one in self.output.parent.iterdir() if "partial" in one.name]
        assert not left, "half a trained model was left"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts jobs on small data; kills what a failing test leaves."""
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    started: list[Job] = []

    def start_one(*options: str, records: int = RECORDS, **environment: str) -> Job:
        data = write_clicks(tmp_path / "data", records)
        started.append(Job(tmp_path, data, *options, **environment))
        return started[-1]

    yield start_one
    for job in started:
        job.process.kill()
        job.process.wait()
        job.log.close()


@pytest.mark.timeout(900)
def test_workers_are_killed_added_and_removed_messages_are_lost_and_no_record_is(start):
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    chance = random.Random(seed)
    faults = f"request_lost=0.02,reply_lost=0.02,duplicated=0.02,delayed=0.01,seed={seed}"
    job = start("--num_epochs=12", records=2 * RECORDS, ELASTICDL_FAULTS=faults)
    wait_until("training", lambda: job.records_done() > 0)
    for number in range(3):
        done = job.records_done()
        victims = wait_until("a running worker", lambda: job.running("worker"))
        os.kill(chance.choice(victims).pid, signal.SIGKILL)
        if number == 1:
            jobs.scale(str(job.directory), 3)
        wait_until("progress after the kill", lambda done=done: job.records_done() > done)
    jobs.scale(str(job.directory), 1)
    wait_until("the others to leave", lambda: len(job.running("worker")) == 1)
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = 12 * 2 * RECORDS
    assert audit["records_expected"] == expected, f"seed {seed}"
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["filtered"] == audit["skipped"] == 0
    assert audit["relaunches"] >= 3
    assert f"{expected:,} applied once on each of 2 partitions" in job.terminal()


@pytest.mark.timeout(900)
def test_an_evaluation_is_exact_though_a_worker_is_killed_in_it(start, tmp_path):
    job = start(
        "--model_def=regularized.Regularized",
        f"--validation_data={tmp_path}/data/*.recordio",
        "--records_per_task=80",
        records=RECORDS // 4,
    )
    wait_until("the evaluation", lambda: (job.status() or NOBODY).phase == "evaluation")
    victims = wait_until("a running worker", lambda: job.running("worker"))
    os.kill(victims[0].pid, signal.SIGKILL)
    assert job.wait() == 0, job.terminal()
    assert " is gone: killed by SIGKILL" in job.terminal()
    result = json.loads((job.directory / "result.json").read_text())
    expected = keras_evaluate(str(job.output), f"{tmp_path}/data/*.recordio", 8)
    assert result["metrics"] == pytest.approx(expected, abs=1e-6)


def test_a_bad_record_fails_the_job_with_its_place_and_the_traceback(start):
    job = start("--params=fail_at=3900")
    assert job.wait() == 1
    terminal = job.terminal()
    assert re.search(r"clicks-1\.recordio, records \d+ to \d+\) \(tried 3 times\)", terminal)
    assert "a bad record" in terminal
    job.assert_nothing_is_left()
    assert not job.output.exists()
    assert json.loads((job.directory / "result.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("victim", ["terminal", "supervisor", "master", "ps", "ctrl-c", "sigterm"])
def test_nothing_outlives_a_job_however_it_ended(start, victim):
    job = start("--num_epochs=1000")
    wait_until("the parameter servers", lambda: len(job.running("ps")) == 2)
    wait_until("a worker", lambda: job.running("worker"))
    description = json.loads((job.directory / "supervisor.json").read_text())
    if victim == "ctrl-c":
        job.process.send_signal(signal.SIGINT)
        assert job.wait() == 130
    elif victim == "sigterm":
        job.process.terminate()
        assert job.wait() == 143
    elif victim == "terminal":
        job.process.kill()
    else:
        pids = {
            "supervisor": description["pid"],
            "master": description["processes"]["master"],
            "ps": job.running("ps")[1].pid,
        }
        os.kill(pids[victim], signal.SIGKILL)
        assert job.wait() == 1
        lost = {"ps": "parameter server 1 was lost"}
        assert lost.get(victim, f"the {victim} was lost (killed by SIGKILL)") in job.terminal()
    job.assert_nothing_is_left()
    assert not job.output.exists()
