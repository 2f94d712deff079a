"""Whole jobs as people run them: the command line, real processes, SIGKILL."""

from __future__ import annotations

import json
import os
import random
import re
import signal

import pytest

from elasticdl.api import jobs
from elasticdl.logs.files import find_logs
from elasticdl.proto import master_pb2
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import RECORDS, wait_until

NOBODY = master_pb2.JobStatus()


def pids_of_workers(job) -> list[int]:
    return [one.pid for one in job.running("worker")]


@pytest.mark.timeout(900)
def test_workers_are_killed_added_and_removed_messages_are_lost_and_no_record_is(start):
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    chance = random.Random(seed)
    faults = "request_lost=0.02,reply_lost=0.02,in_flight=0.02,duplicated=0.02,delayed=0.01"
    faults += f",seed={seed}"
    job = start("--num_epochs=12", records=2 * RECORDS, ELASTICDL_FAULTS=faults)
    wait_until("training", lambda: job.records_done() > 0)
    for number in range(3):
        done = job.records_done()
        victims = wait_until("a running worker", lambda: job.running("worker"))
        pid = chance.choice(victims).pid
        os.kill(pid, signal.SIGKILL)
        # Else the next one may be this one again.
        wait_until("its death to be seen", lambda pid=pid: pid not in pids_of_workers(job))
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


@pytest.mark.timeout(900)
def test_a_worker_that_builds_its_model_leaves_as_soon_as_it_is_told_to(start, tmp_path):
    sign = tmp_path / "builds"
    job = start(
        "--model_def=slow_to_build.SlowToBuild", f"--params=sign={sign}", "--num_epochs=1000"
    )
    wait_until("worker 1 to build", sign.exists)
    jobs.scale(str(job.directory), 1)
    (end,) = wait_until("its end", lambda: job.entries("exited"))
    assert (end["role"], end["index"]) == ("worker", 1)
    (log,) = find_logs(job.directory, "worker", 1)
    assert "leaves before it has begun to work" in log.path.read_text(), "or it was killed"
    jobs.stop(str(job.directory))
    job.wait()
    job.assert_nothing_is_left()


def test_a_bad_record_fails_the_job_with_its_place_and_the_traceback(start):
    job = start("--params=fail_at=3900")
    assert job.wait() == 1
    terminal = job.terminal()
    assert re.search(r"clicks-1\.recordio, records \d+ to \d+\) \(tried 3 times\)", terminal)
    assert "a bad record" in terminal
    job.assert_nothing_is_left()
    assert not job.output.exists()
    assert json.loads((job.directory / "result.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("victim", ["terminal", "supervisor", "ctrl-c", "sigterm"])
def test_nothing_outlives_a_job_however_it_ended(start, victim):
    job = start("--num_epochs=1000", "--warm_spares=2")
    wait_until("the parameter servers", lambda: len(job.running("ps")) == 2)
    wait_until("a worker", lambda: job.running("worker"))

    def has_spares() -> bool:
        """Whether one is ready, and another one is at least being started."""
        spares = json.loads((job.directory / "supervisor.json").read_text())["spares"].values()
        return len(spares) == 2 and any(one["is_ready"] for one in spares)

    wait_until("spares", has_spares)
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
        os.kill(description["pid"], signal.SIGKILL)
        assert job.wait() == 1
        assert f"the {victim} was lost (killed by SIGKILL)" in job.terminal()
        assert f"elasticdl jobs resume {job.directory} goes on with it" in job.terminal()
    job.assert_nothing_is_left()
    assert not job.output.exists()
