"""Workers that are forked from a process that has imported TensorFlow once for all of a job."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from elasticdl.api import jobs
from elasticdl.api.forks import can_fork
from tests.job import real_jobs
from tests.job.real_jobs import wait_until

pytestmark = pytest.mark.skipif(not can_fork(), reason="where workers are forked")


@pytest.mark.timeout(600)
def test_workers_are_children_of_the_supervisor_and_outlive_what_they_were_forked_from(start):
    job = start("--num_epochs=1000", "--records_per_task=200")
    wait_until("training", lambda: job.records_done() > 0)
    description = json.loads((job.directory / "supervisor.json").read_text())
    zygote = psutil.Process(description["zygote"])
    threads = {
        Path(f"/proc/{zygote.pid}/task/{one.id}/comm").read_text().strip()
        for one in zygote.threads()
        if one.id != zygote.pid
    }
    assert threads <= {"jemalloc_bg_thd"}, "threads that who is forked has lost"
    workers = [psutil.Process(one.pid) for one in wait_until("workers", lambda: two(job))]
    for worker in workers:
        assert worker.ppid() == description["pid"]
        line = " ".join(worker.cmdline())
        assert f"-m elasticdl.worker --job_dir={job.directory} --index=" in line
        assert os.getsid(worker.pid) == worker.pid
    zygote.kill()
    workers[0].kill()
    wait_until("the next one", lambda: workers[0].pid not in [one.pid for one in two(job)])
    assert workers[1].is_running()
    job.process.send_signal(signal.SIGINT)
    assert job.wait() == 130
    job.assert_nothing_is_left()
    assert jobs.audit(str(job.directory))["relaunches"] == 1


def two(job) -> list:
    running = job.running("worker")
    return running if len(running) == 2 else []


@pytest.mark.timeout(600)
def test_a_model_that_reads_its_input_is_given_none(start, tmp_path):
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    text = (Path(real_jobs.ZOO) / "clicks.py").read_text()
    (zoo / "clicks.py").write_text(
        text.replace(
            "import tensorflow", "import sys; assert not sys.stdin.read()\nimport tensorflow", 1
        )
    )
    job = start(f"--model_zoo={zoo}", "--num_epochs=1")
    assert job.wait() == 0, job.terminal()


@pytest.mark.timeout(600)
def test_where_something_starts_threads_everywhere_workers_are_not_forked(start, tmp_path):
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "sitecustomize.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, name='agent', daemon=True).start()\n"
    )
    path = os.pathsep.join([str(agent), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = start("--num_epochs=1", PYTHONPATH=path)
    assert job.wait() == 0, job.terminal()
    said = (job.directory / "logs" / "supervisor.log").read_text()
    assert "workers are not forked: there are threads here: agent" in said
