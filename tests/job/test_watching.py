"""A real job, watched from other terminals: its logs, its list, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.dashboard.schema import checked
from tests.job.real_jobs import Job, wait_until


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "elasticdl.api", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def described(url: str) -> dict[str, Any]:
    """What a page says the job is."""
    with urllib.request.urlopen(f"{url}api/job", timeout=60) as answer:
        return json.load(answer)


def status_of(job: str) -> dict[str, Any]:
    """What is printed of a job's status, which is that of its page and a few values besides."""
    found = json.loads(ask("jobs", "status", job, "--json").stdout)
    besides = {"name", "dashboard", "recent", "total"}
    assert besides <= found.keys()
    return checked("state", {name: found[name] for name in found.keys() - besides})


def begin(output: Path, *words: str) -> subprocess.Popen[bytes]:
    """Begin a command that goes on."""
    with output.open("wb") as file:
        return subprocess.Popen([sys.executable, "-m", "elasticdl.api", *words], stdout=file)


def test_a_job_is_followed_through_a_death_to_its_end(start, tmp_path):
    job: Job = start("--num_epochs=1000", "--log_level=INFO")
    named = str(job.directory)
    wait_until("training", job.records_done)
    follow = begin(tmp_path / "followed", "jobs", "logs", named, "-f", "--role=worker", "--json")
    wait = begin(tmp_path / "waited", "jobs", "wait", named, "--json")
    try:
        killed = job.running("worker")[0].instance
        pid = next(one.pid for one in job.running("worker") if one.instance.index == killed.index)
        os.kill(pid, signal.SIGKILL)

        def followed() -> set[tuple[int, int]]:
            lines = (tmp_path / "followed").read_text().splitlines(keepends=True)
            read = [json.loads(line) for line in lines if line.endswith("\n")]
            assert {line["role"] for line in read} <= {"worker"}
            return {(line["index"], line["incarnation"]) for line in read}

        wait_until("the replacement's first line", lambda: (killed.index, 2) in followed())
        assert {(0, 1), (1, 1)} <= followed()
        assert follow.poll() is None
        assert wait.poll() is None
        shown = ask("jobs", "dashboard", named, "--json")
        assert described(json.loads(shown.stdout)["url"])["directory"] == named
        status = status_of(named)
        assert status["state"] == "running"
        assert status["progress"]["records_done"] > 0
        assert {one["role"] for one in status["instances"]} == {"master", "ps", "worker"}
        assert re.search(r"^worker +1 +\d", ask("jobs", "status", named).stdout, re.MULTILINE)
        master = ask("jobs", "logs", named, "--role=master")
        assert "killed by SIGKILL" in master.stdout
        stopped = ask("jobs", "stop", named, "--json")
        assert json.loads(stopped.stdout) == {"job": named, "state": "stopping"}
        assert wait.wait(60) == 1
        assert follow.wait(60) == 0
    finally:
        follow.kill()
        wait.kill()
    assert json.loads((tmp_path / "waited").read_text())["state"] == "stopped"
    last = ask("jobs", "logs", named, "--role=supervisor", "--lines=1", "--json")
    assert json.loads(last.stdout)["event"].startswith(("worker", "master", "parameter server"))
    again = ask("jobs", "wait", named)
    assert (again.returncode, again.stdout) == (1, "job: stopped: stopped on request\n")
    job.process.wait(60)
    assert status_of(named)["state"] == "stopped"
    report = tmp_path / "story.html"
    written = ask("jobs", "report", named, f"--output={report}")
    assert written.stdout == f"{report}\n"
    assert "killed by SIGKILL" in report.read_text()
    served = begin(tmp_path / "served", "jobs", "dashboard", named)
    try:
        url = wait_until("the URL", (tmp_path / "served").read_text).strip()
        assert described(url)["directory"] == named
        os.kill(served.pid, signal.SIGINT)
        assert served.wait(30) == 130
    finally:
        served.kill()


def test_events_are_told_as_they_come_and_the_result_last(start):
    job: Job = start("--num_epochs=2", "--json_events", records=1000)
    assert job.wait() == 0
    lines = [json.loads(line) for line in job.terminal().splitlines()]
    said = [one["text"] for one in lines if one["kind"] == "message"]
    told, result = lines[len(said) : -1], lines[-1]
    assert said[0] == f"job {result['job_name']}"
    assert said[-1].startswith("dashboard: http://127.0.0.1:")
    printed = ask("jobs", "events", str(job.directory), "--json").stdout.splitlines()
    assert told == [json.loads(line) for line in printed]
    assert {"master", "launch", "granted", "epoch", "ended"} <= {one["kind"] for one in told}
    assert (result["kind"], result["state"]) == ("result", "succeeded")
    assert result["audit"]["records_expected"] == 2000


def test_a_job_that_fails_tells_that_last(start, tmp_path):
    job: Job = start("--model_def=clicks.NoSuchModel", "--json_events")
    assert job.wait() == 2
    (told,) = (line for line in job.terminal().splitlines() if line.startswith("{"))
    result = json.loads(told)
    assert (result["kind"], result["state"]) == ("result", "failed")
    assert "NoSuchModel" in result["error"]
