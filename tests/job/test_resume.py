"""A job that lost everything goes on with one command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import elasticdl
from elasticdl.api import jobs
from elasticdl.api.events import events
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import PredictJob, processes_of, wait_until

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
    job.kill_everything()
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("consistency", ["async", "sync"])
def test_a_job_of_one_process_is_killed_and_resumed_with_nothing_lost(start, consistency):
    options = (
        "--num_workers=0",
        f"--num_epochs={EPOCHS}",
        "--checkpoint_steps=40",
        f"--consistency={consistency}",
        *(("--grads_to_wait=2", "--worker_threads=1") if consistency == "sync" else ()),
    )
    job = start(*options, records=1600)
    wait_until("a checkpoint on the way", lambda: len(job.entries("checkpoint")) > 3)
    job.kill_everything()
    before = [one["task"] for one in job.entries("done")]
    assert not [one for one in job.entries("phase") if one["kind"] == "TRAINING"], "it was over"
    again = resume(job)
    assert again.returncode == 0, again.stderr
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == EPOCHS * 1600
    assert audit["applied_once"] == {"0": EPOCHS * 1600, "1": EPOCHS * 1600}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    (master, resumed) = job.entries("master")
    assert (master["resumed"], resumed["resumed"]) == (False, True)
    assert len(job.entries("done")) > len(before)
    sources = [one["source"] for one in job.entries("restored")]
    assert len(sources) == 2
    assert "checkpoint 1" not in sources, "it went on from the middle, not from the start"
    if consistency == "sync":
        undisturbed = start(*options, records=1600)
        assert undisturbed.wait() == 0, undisturbed.terminal()
        expected, found = (np.load(one.output / "params.npz") for one in (undisturbed, job))
        assert expected.files == found.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.timeout(900)
def test_a_prediction_is_killed_and_resumed_and_every_row_is_there_once_in_input_order(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    data = write_clicks(tmp_path / "data", 4000)
    model = str(tmp_path / "model")
    elasticdl.train(
        model_zoo=ZOO, model_def="clicks.Clicks", data=data, output=model, num_workers=0, quiet=True
    )
    job = PredictJob(tmp_path, model, data, 4000)
    try:
        wait_until(
            "predictions on the way",
            lambda: sum(one["kind"] == "PREDICTION" for one in job.entries("done")) > 8,
        )
        job.kill_everything()
        assert not job.output.exists(), "it was killed too late"
        wait_until("the end of its processes", lambda: not processes_of(job.directory), 15.0)
        again = resume(job)
    finally:
        job.kill_everything()
        job.log.close()
    assert again.returncode == 0, again.stderr
    assert "the job was resumed" in again.stdout
    job.assert_nothing_is_left()
    with job.output.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(one["row"]) for one in rows] == list(range(4000))
    alone = tmp_path / "alone.csv"
    elasticdl.predict(
        trained_model=model,
        data=data,
        output=str(alone),
        num_workers=0,
        minibatch_size=8,
        keep_columns="row",
        quiet=True,
    )
    with alone.open() as file:
        expected = [float(one["prediction"]) for one in csv.DictReader(file)]
    found = [float(one["prediction"]) for one in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == 4000
    assert audit["lost"] == 0
