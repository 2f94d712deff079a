"""Whole jobs whose input function makes other minibatches each time (R7), and those that do not."""

from __future__ import annotations

import os
import signal

import pytest

from elasticdl.api import jobs
from elasticdl.master.journal import read_journal
from tests.job.real_jobs import RECORDS, Job, wait_until

EPOCHS = 4


def kill_workers_until(job: Job, seen, most: int = 20) -> None:
    """Kill one after the other in the middle of training, until something is seen."""
    for _ in range(most):
        done = job.records_done()
        wait_until("progress", lambda done=done: job.records_done() > done)
        victims = wait_until("a running worker", lambda: job.running("worker"))
        # Not the one that has only just come, and holds nothing that was trained in part.
        victim = min(victims, key=lambda one: one.instance.incarnation)
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(
            "its death to be seen",
            lambda pid=victim.pid: pid not in [one.pid for one in job.running("worker")],
        )
        if seen():
            return
    raise AssertionError(f"{most} workers were killed, and it was not seen")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [[], ["--consistency=sync"]], ids=["async", "sync"])
def test_an_input_that_varies_is_trained_at_least_once_and_told(start, mode):
    options = [f"--num_epochs={EPOCHS}", "--records_per_task=400", *mode]
    job = start("--model_def=varying.Varying", *options)
    restarted = lambda: list(read_journal(job.directory, "restarted"))  # noqa: E731
    kill_workers_until(job, restarted)
    assert job.wait() == 0, job.terminal()
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == EPOCHS * RECORDS
    assert audit["repeated"] > 0
    assert audit["tasks_at_least_once"] == len({one.body["task"] for one in restarted()})
    assert (audit["lost"], audit["in_progress"], audit["tasks_not_closed"]) == (0, 0, 0)
    terminal = job.terminal()
    assert terminal.count("does not make the same minibatches of the same records") == 1
    assert f"{audit['repeated']:,} trained more than once" in terminal
    job.assert_nothing_is_left()


@pytest.mark.timeout(900)
def test_an_input_that_does_not_vary_is_gone_on_with_where_a_killed_worker_stood(start):
    job = start(f"--num_epochs={EPOCHS}", "--records_per_task=400")
    kill_workers_until(job, lambda: list(read_journal(job.directory, "gone")))
    assert job.wait() == 0, job.terminal()
    audit = jobs.audit(str(job.directory))
    assert audit["applied_once"] == dict.fromkeys("01", EPOCHS * RECORDS)
    assert (audit["repeated"], audit["tasks_at_least_once"], audit["lost"]) == (0, 0, 0)
