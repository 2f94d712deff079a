"""A job that lost everything goes on with one command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from elasticdl.api import jobs
from elasticdl.api.events import events
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import processes_of, wait_until

EPOCHS = 6


def resume(job) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "elasticdl.api", "jobs", "resume", str(job.directory)],
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("consistency", ["async", "sync"])
def test_everything_is_killed_at_once_and_resume_ends_the_job_with_nothing_lost(
    start, tmp_path, consistency
):
    data = f"{tmp_path}/data/*.recordio"
    job = start(
        f"--consistency={consistency}",
        f"--num_epochs={EPOCHS}",
        f"--validation_data={data}",
        "--checkpoint_steps=40",
        records=1600,
    )
    wait_until("its processes", lambda: job.running("ps"))
    refused = resume(job)
    assert refused.returncode == 2
    assert "it still runs" in refused.stderr
    wait_until("a second epoch", lambda: job.records_done() > 1600)
    job.process.kill()
    for line in processes_of(job.directory):
        os.kill(int(line.partition(":")[0]), signal.SIGKILL)
    wait_until("the end of its processes", lambda: not processes_of(job.directory), 15.0)
    again = resume(job)
    assert again.returncode == 0, again.stderr
    assert "the job was resumed" in again.stdout
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == EPOCHS * 1600
    assert audit["applied_once"] == {"0": EPOCHS * 1600, "1": EPOCHS * 1600}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    result = json.loads((job.directory / "result.json").read_text())
    assert result["metrics"] == pytest.approx(keras_evaluate(str(job.output), data, 8), abs=1e-6)
    kinds = [event.kind for event in events(str(job.directory))]
    assert kinds.count("master") == 2
    succeeded = resume(job)
    assert succeeded.returncode == 2
    assert "has succeeded; there is nothing to resume" in succeeded.stderr
