"""Jobs whose checkpoints, and whose journal's mirror, are at an object store."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.checkpoints import list_checkpoints, verify_checkpoints
from elasticdl.data.filesystems import file_system
from elasticdl.master.journal_mirror import copy_journal, last_master
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import Job, processes_of, wait_until

EPOCHS = 4
RECORDS = 1600
MIRRORED = Path(__file__).with_name("mirrored")


def kill_the_master(job: Job) -> None:
    (line,) = [one for one in processes_of(job.directory) if "-m elasticdl.master " in one]
    os.kill(int(line.partition(":")[0]), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_master_and_parameter_server_are_killed_then_everything_and_the_store_is_all_that_is_left(
    start, store, tmp_path
):
    data, checkpoints = f"{tmp_path}/data/*.recordio", f"{store.root}/job/checkpoints"
    mirror = f"{store.root}/job/journal"
    job = start(
        f"--num_epochs={EPOCHS}",
        f"--validation_data={data}",
        f"--checkpoint_dir={checkpoints}/",
        "--checkpoint_steps=40",
        records=RECORDS,
        PYTHONPATH=str(MIRRORED),
        MIRROR=mirror,
    )
    wait_until("a checkpoint of training", lambda: len(job.entries("checkpoint")) > 1)
    kill_the_master(job)
    wait_until("the next master", lambda: len(job.entries("master")) == 2)
    wait_until("parameter servers", lambda: len(job.running("ps")) == 2)
    os.kill(job.running("ps")[0].pid, signal.SIGKILL)
    wait_until("its replacement, from the store", lambda: job.entries("restored"))
    done = job.records_done()
    wait_until("more training", lambda: job.records_done() > done + 100)
    job.kill_everything()
    wait_until("the end of its processes", lambda: not processes_of(job.directory), 15.0)
    told = len(job.entries("done"))
    for file in job.directory.glob("journal.sqlite*"):
        file.unlink()
    assert last_master(mirror) == 2
    assert copy_journal(mirror, job.directory)
    assert len(job.entries("done")) >= told > 0, "what somebody may have been told is there"
    assert not (job.directory / "result.json").exists(), "it was killed too late"
    job.resume()
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == EPOCHS * RECORDS
    assert audit["applied_once"] == {"0": EPOCHS * RECORDS, "1": EPOCHS * RECORDS}
    assert audit["lost"] == audit["tasks_not_closed"] == audit["evaluation"]["lost"] == 0
    result = json.loads((job.directory / "result.json").read_text())
    assert result["metrics"] == pytest.approx(keras_evaluate(str(job.output), data, 8), abs=1e-6)
    assert last_master(mirror) == 3
    assert len(job.entries("restored")) == 3
    rows = list_checkpoints(str(job.directory))
    assert rows
    assert {row["state"] for row in rows} == {"complete"}
    assert not any(row["problems"] for row in verify_checkpoints(checkpoints))
    files, root = file_system(checkpoints)
    kept = {row["directory"] for row in rows}
    left = {one.path.rpartition("/")[0] for one in files.files(root)}
    assert left == kept, "nothing half written is left"
