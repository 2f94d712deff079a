"""A job that is watched while it runs, through its master's death, and when it is over."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from urllib.parse import urlsplit

import pytest

from elasticdl.dashboard.directory_source import DirectorySource
from tests.dashboard.schema import checked
from tests.job.real_jobs import wait_until


def fetched(url: str, path: str):
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        return json.load(answer)


def test_the_page_stays_at_its_address_and_tells_the_same_when_the_master_was_killed(start):
    job = start("--num_epochs=8")
    printed = wait_until("the URL", lambda: re.search(r"dashboard: (http://\S+)", job.terminal()))
    url = printed[1]
    job_before = checked("job", fetched(url, "api/job"))
    wait_until("the training", lambda: job.records_done() > 1000)
    state = checked("state", fetched(url, "api/state"))
    roles = [one["role"] for one in state["instances"]]
    assert sorted(roles) == ["master", "ps", "ps", "worker", "worker"]
    living = [one for one in state["instances"] if one["state"] == "running"]
    assert all(one["memory_bytes"] > 1 << 20 and one["doing"] for one in living)

    def have_counted() -> bool:  # What they told last may be of before the first push.
        partitions = fetched(url, "api/state")["partitions"]
        has_pushes = sum(sum(one["staleness"]) for one in partitions) > 0
        has_rows = sum(one["rows"] for one in partitions) > 0
        return [one["index"] for one in partitions] == [0, 1] and has_pushes and has_rows

    wait_until("counts", have_counted)
    history = checked("history", fetched(url, "api/history"))
    (master,) = [one for one in state["instances"] if one["role"] == "master"]
    os.kill(master["pid"], signal.SIGKILL)
    state = checked("state", fetched(url, "api/state"))
    (again,) = [one for one in state["instances"] if one["role"] == "master"]
    assert again["incarnation"] == 2
    assert fetched(url, "api/job") == job_before
    rows = fetched(url, "api/history")["rows"]
    kept = [row for row in history["rows"] if row in rows]
    assert len(kept) >= len(history["rows"]) // 2, "a row waits for the next group of entries"
    marks = [one["mark"] for one in checked("events", fetched(url, "api/events"))["events"]]
    assert marks.count("master") == 2
    assert marks.count("death") == 1
    with urllib.request.urlopen(url + "api/stream", timeout=60) as stream:
        assert job.wait() == 0, job.terminal()
        states = [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    assert states[-1]["state"] == "succeeded"
    assert states[-1]["audit"]["lost"] == 0
    job.assert_nothing_is_left()
    address = urlsplit(url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), 5)
    source = DirectorySource(job.directory)
    over = checked("state", source.state())
    assert over["state"] == "succeeded"
    assert over["audit"] == states[-1]["audit"]
    assert over["progress"]["records_done"] == over["progress"]["records_expected"]
    assert [one["index"] for one in over["partitions"]] == [0, 1]
    assert {one["state"] for one in over["instances"]} == {"gone"}
    assert checked("history", source.history())["rows"][0] == rows[0]
    checked("log", source.log("worker", 0, None, 10_000))


def test_a_job_without_a_page_has_none(start):
    job = start("--dashboard=false", "--num_workers=0", "--num_ps=1")
    assert job.wait() == 0, job.terminal()
    assert "dashboard:" not in job.terminal()
    assert DirectorySource(job.directory).state()["state"] == "succeeded"


def test_a_job_of_one_process_has_a_page(start):
    job = start("--num_workers=0", "--num_ps=1", "--num_epochs=8")
    printed = wait_until("the URL", lambda: re.search(r"dashboard: (http://\S+)", job.terminal()))
    states = []
    with urllib.request.urlopen(printed[1] + "api/stream", timeout=100) as stream:
        states = [json.loads(line[6:]) for line in stream if line.startswith(b"data: ")]
    told = [one for one in states if "instances" in one]
    assert told[-1]["state"] == "succeeded"
    checked("state", told[-1])
    assert any(one["partitions"] for one in told)
    assert job.wait() == 0, job.terminal()


def test_tensorboard_runs_beside_a_job_and_its_files_stay_with_the_model(start):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    job = start("--tensorboard", "--num_epochs=60")
    printed = wait_until("its URL", lambda: re.search(r"TensorBoard: (http://\S+)", job.terminal()))

    def loss() -> list:
        try:
            return fetched(printed[1], "data/plugin/scalars/scalars?run=.&tag=loss")
        except OSError:
            return []

    wait_until("the loss", loss)
    job.process.send_signal(signal.SIGINT)
    job.wait()
    address = urlsplit(printed[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), 5)
