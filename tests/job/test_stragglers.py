"""Whole jobs with a worker that stands still for longer than anybody wants to wait."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from elasticdl.api import jobs
from elasticdl.master.journal import read_journal
from tests.job.real_jobs import RECORDS, Job, wait_until


def tasks_of(job: Job, worker: int) -> set[int]:
    """What was leased to a worker of training, and is not done."""
    open_tasks = set()
    for entry in read_journal(job.directory):
        body = entry.body
        if entry.kind == "granted" and body["kind"] == "TRAINING" and body["worker"] == worker:
            open_tasks.add(body["task"])
        elif entry.kind == "done":
            open_tasks.discard(body["task"])
    return open_tasks


def stopped_with(job: Job, pid: int) -> set[int]:
    """Stop worker 0; return the tasks that it holds, or let it go on where these are none."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)  # What it has told before may be on its way.
    held = tasks_of(job, 0)
    if not held:
        os.kill(pid, signal.SIGCONT)
    return held


@pytest.mark.timeout(900)
def test_what_a_worker_that_is_stopped_holds_is_done_by_another_and_the_epoch_ends(start, tmp_path):
    data = f"{tmp_path}/data/*.recordio"
    job = start(
        "--num_epochs=2",
        f"--validation_data={data}",
        "--records_per_task=80",
        "--lease_s=600",
        records=RECORDS,
    )
    wait_until("training", job.records_done)
    wait_until("six tasks", lambda: len(list(read_journal(job.directory, "done"))) > 6)
    pid = wait_until(
        "worker 0",
        lambda: {one.instance.index: one.pid for one in job.running("worker")}.get(0),
    )
    held = wait_until("a task that it holds when it is stopped", lambda: stopped_with(job, pid))
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = 2 * job.records
    assert audit["records_expected"] == expected
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["repeated"] == audit["evaluation"]["lost"] == 0
    assert audit["tasks_at_least_once"] == audit["relaunches"] == 0
    twice = [
        entry.body
        for entry in read_journal(job.directory, "granted")
        if entry.body.get("straggler", {}).get("worker") == 0
    ]
    # What it had asked for before it was stopped may have been granted after that; what it had
    # done, written down.
    assert {body["task"] for body in twice if body["kind"] == "TRAINING"} & held
    assert all(body["worker"] == 1 for body in twice)
    told = re.findall(
        r"task (\d+) is leased to worker 1 as well: worker 0 has held it for [\d.]+ s, "
        r"its peers take [\d.]+ s",
        job.terminal(),
    )
    assert {int(task) for task in told} == {body["task"] for body in twice}
