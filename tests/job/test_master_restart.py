"""Whole jobs whose master is killed: it is launched again, and goes on from the journal."""

from __future__ import annotations

import json
import os
import signal

import pytest

from elasticdl.api import jobs
from elasticdl.master.journal import read_journal
from elasticdl.proto import master_pb2
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import RECORDS, Job, wait_until

NOBODY = master_pb2.JobStatus()


def master_of(job: Job) -> int | None:
    description = json.loads((job.directory / "supervisor.json").read_text())
    return description["processes"].get("master")


def kill_the_master(job: Job) -> None:
    killed = wait_until("the master", lambda: master_of(job))
    os.kill(killed, signal.SIGKILL)
    wait_until("the next master", lambda: master_of(job) not in (None, killed))


@pytest.mark.timeout(900)
def test_the_master_is_killed_in_training_evaluation_and_export_and_nothing_is_lost(
    start, tmp_path
):
    job = start(
        "--model_def=regularized.Regularized",
        f"--validation_data={tmp_path}/data/*.recordio",
        "--num_epochs=3",
        "--evaluation_epochs=3",
        "--records_per_task=80",
        records=RECORDS // 2,
    )
    wait_until("training", lambda: job.records_done() > 0)
    workers = {one.pid for one in job.running("worker")}
    for phase in ("training", "evaluation", "export"):
        wait_until(phase, lambda phase=phase: (job.status() or NOBODY).phase == phase)
        kill_the_master(job)
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = 3 * job.records
    assert audit["records_expected"] == expected
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["tasks_not_closed"] == audit["evaluation"]["lost"] == 0
    assert audit["evaluation"]["records_expected"] == job.records, "counted once, not twice"
    assert audit["relaunches"] == 0, "nobody else was replaced"
    assert job.terminal().count("the master was lost (killed by SIGKILL); another one") == 3
    started = [one.body for one in read_journal(job.directory, "started")]
    assert {one["pid"] for one in started if one["role"] == "worker"} >= workers
    assert sum(one["role"] != "master" for one in started) == 4
    result = json.loads((job.directory / "result.json").read_text())
    exact = keras_evaluate(str(job.output), f"{tmp_path}/data/*.recordio", 8)
    assert result["metrics"] == pytest.approx(exact, abs=1e-6)
    assert [epoch["records"] for epoch in result["history"]] == 3 * [job.records]


def test_a_master_that_dies_again_and_again_fails_the_job_with_the_end_of_its_log(start):
    job = start("--num_epochs=1000")
    wait_until("a worker", lambda: job.running("worker"))
    (job.directory / "token").rename(job.directory / "token-gone")
    os.kill(master_of(job), signal.SIGKILL)
    assert job.wait() == 1
    terminal = job.terminal()
    assert "the master was lost (exit code 1)" in terminal
    assert "FileNotFoundError" in terminal
    job.assert_nothing_is_left()


def test_a_job_that_is_stopped_while_it_has_no_master_was_stopped_and_did_not_fail(start):
    job = start("--num_epochs=1000")
    wait_until("a worker", lambda: job.running("worker"))
    (job.directory / "token").rename(job.directory / "token-gone")
    os.kill(master_of(job), signal.SIGKILL)
    log = job.directory / "logs" / "master.log"
    wait_until("the next to die", lambda: "FileNotFoundError" in log.read_text())
    os.kill(json.loads((job.directory / "supervisor.json").read_text())["pid"], signal.SIGTERM)
    assert job.wait() != 0
    assert json.loads((job.directory / "result.json").read_text())["state"] == "stopped"
    job.assert_nothing_is_left()
