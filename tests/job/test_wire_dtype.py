"""Whole jobs whose weights and gradients travel as bfloat16: every account and promise holds."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import elasticdl
from elasticdl.api import jobs
from elasticdl.master.journal import read_journal
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import wait_until

HALF = "--wire_dtype=bfloat16"
EPOCHS = 4


def parameters_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


def bits_of(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in parameters_of(path).items()}


def test_sync_mode_gives_the_same_bits_however_messages_fare(tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    data = write_clicks(tmp_path / "clicks", 600)

    def train(name: str, **options):
        return elasticdl.train(
            model_zoo=ZOO,
            model_def="normalized.Normalized",
            data=data,
            output=str(tmp_path / name),
            num_workers=0,
            num_ps=2,
            minibatch_size=20,
            num_epochs=2,
            consistency="sync",
            grads_to_wait=3,
            quiet=True,
            **options,
        )

    train("float32")
    plain = train("plain", wire_dtype="bfloat16")
    faults = "request_lost=0.1,reply_lost=0.1,in_flight=0.1,duplicated=0.2,seed=3"
    monkeypatch.setenv("ELASTICDL_FAULTS", faults)
    lossy = train("lossy", wire_dtype="bfloat16")
    assert lossy.audit["repeats_dropped"] > 0
    assert {**lossy.audit, "repeats_dropped": 0} == plain.audit
    assert bits_of(tmp_path / "lossy") == bits_of(tmp_path / "plain")
    exact, rounded = parameters_of(tmp_path / "float32"), parameters_of(tmp_path / "plain")
    for name, values in exact.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(rounded[name], values, atol=0.05, err_msg=name)
    assert bits_of(tmp_path / "float32") != bits_of(tmp_path / "plain"), "something was rounded"
    trained = np.concatenate([x.ravel() for x in rounded.values() if x.dtype == np.float32])
    assert (trained.view(np.uint32) & 0xFFFF).any(), "what is kept and exported is float32"


@pytest.mark.timeout(900)
def test_what_a_killed_server_and_a_killed_worker_had_is_replayed_and_goes_on(start, tmp_path):
    data = f"{tmp_path}/data/*.recordio"
    job = start(
        HALF,
        f"--validation_data={data}",
        f"--num_epochs={EPOCHS}",
        "--records_per_task=400",
        "--checkpoint_steps=50",
    )
    wait_until("training", lambda: job.records_done() > 0)
    for role in ("ps", "worker"):
        victim = wait_until(f"a running {role}", lambda role=role: job.running(role))[0]
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(
            "its death to be seen",
            lambda pid=victim.pid, role=role: pid not in [one.pid for one in job.running(role)],
        )
        done = job.records_done()
        wait_until("progress", lambda done=done: job.records_done() > done)
    assert job.wait() == 0, job.terminal()
    audit = jobs.audit(str(job.directory))
    assert audit["applied_once"] == dict.fromkeys("01", EPOCHS * job.records)
    assert (audit["lost"], audit["tasks_not_closed"]) == (0, 0)
    # The digests of R7 are of ids and labels, which travel as they are.
    assert (audit["repeated"], audit["tasks_at_least_once"]) == (0, 0)
    assert not list(read_journal(job.directory, "restarted"))
    result = json.loads((job.directory / "result.json").read_text())
    exact = keras_evaluate(str(job.output), data, 8)
    assert result["metrics"] == pytest.approx(exact, abs=1e-6), "what is measured is not rounded"
    assert result["metrics"]["auc"] > 0.6
    job.assert_nothing_is_left()
