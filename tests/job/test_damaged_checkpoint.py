"""Whole jobs whose newest checkpoint is damaged when it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from elasticdl.api import jobs
from elasticdl.api.events import JobEvent, events
from elasticdl.ps.manifest import committed, read_manifest, verify
from tests.job.real_jobs import Job, wait_until
from tests.job.test_master_restart import master_of

EPOCHS = 4
RECORDS = 1600
OPTIONS = (f"--num_epochs={EPOCHS}", "--records_per_task=80", "--checkpoint_steps=100")


def newest(job: Job) -> int:
    return max((one["number"] for one in job.entries("checkpoint")), default=0)


def newest_path(job: Job) -> Path:
    return job.directory / "checkpoints" / f"{newest(job):010d}"


def wait_for_a_third_checkpoint(job: Job) -> None:
    wait_until("a checkpoint", lambda: newest(job) > 2)


@contextlib.contextmanager
def no_checkpoint_comes(job: Job) -> Iterator[None]:
    """Stop the master while no checkpoint is being made: the newest one stays that."""
    master = psutil.Process(wait_until("the master", lambda: master_of(job)))

    def is_stopped_between() -> bool:
        master.suspend()
        wait_until("its stop", lambda: master.status() == psutil.STATUS_STOPPED)
        begun = max((one["number"] for one in job.entries("checkpoint_begun")), default=0)
        if begun == newest(job):
            return True
        master.resume()
        return False

    wait_until("a moment between checkpoints", is_stopped_between)
    try:
        yield
    finally:
        master.resume()


def dense_file(checkpoint: Path, partition: int) -> Path:
    """The file of the dense variables in a partition's part."""
    (part,) = [one for one in read_manifest(checkpoint).parts if one["partition"] == partition]
    return checkpoint / next(one["name"] for one in part["files"] if one["kind"] == "dense")


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def parameter_server(job: Job, index: int) -> int:
    """The process of one; a master that is stopped could not be asked."""

    def pids() -> list[int]:
        return [one.pid for one in job.running("ps") if one.instance.index == index]

    (pid,) = wait_until("a parameter server", pids)
    return pid


def told(job: Job, kind: str) -> list[JobEvent]:
    return [one for one in events(str(job.directory)) if one.kind == kind]


def assert_nothing_is_lost(job: Job) -> None:
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = EPOCHS * job.records
    assert audit["records_expected"] == expected
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    whole = committed(job.directory / "checkpoints")
    assert [verify(path) for path in whole] == [[]] * len(whole)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("consistency", ["async", "sync"])
def test_a_killed_parameter_server_is_restored_from_the_one_before_and_nothing_is_lost(
    start, consistency
):
    sync = ("--consistency=sync", "--grads_to_wait=2", "--worker_threads=1")
    options = (
        *OPTIONS,
        *(sync if consistency == "sync" else ()),
    )
    job = start(*options, records=RECORDS)
    wait_for_a_third_checkpoint(job)
    server = parameter_server(job, 0)
    with no_checkpoint_comes(job):
        path = newest_path(job)
        damaged = dense_file(path, 0)
        flip_a_byte(damaged)
        os.kill(server, signal.SIGKILL)
    assert job.wait() == 0, job.terminal()
    assert_nothing_is_lost(job)
    (event,) = told(job, "checkpoint_damaged")
    assert event.body["number"] == int(path.name)
    assert event.body["instead"] < event.body["number"]
    said = [line for line in job.terminal().splitlines() if "takes its place" in line]
    assert len(said) == 1
    assert event.text in said[0]
    assert f"{damaged.name} is damaged: its SHA-256 is not the manifest's" in said[0]
    restored = told(job, "restored")
    source = f"checkpoint {event.body['instead']}"
    if consistency == "async":
        assert [one.body["source"] for one in restored] == [source]
        assert restored[0].body["tasks_again"] > 0
        return
    assert [one.body["source"] for one in restored][-2:] == [source] * 2
    assert told(job, "rolled_back")[-1].body["checkpoint"] == event.body["instead"]
    undisturbed = start(*options, "--num_workers=0", records=RECORDS)
    assert undisturbed.wait() == 0, undisturbed.terminal()
    expected, found = (np.load(one.output / "params.npz") for one in (undisturbed, job))
    assert expected.files == found.files
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.timeout(900)
def test_a_job_is_resumed_from_the_one_before_where_a_file_of_the_newest_is_missing(start):
    job = start(*OPTIONS, records=RECORDS)
    wait_for_a_third_checkpoint(job)
    job.kill_everything()
    path = newest_path(job)
    dense_file(path, 1).unlink()
    job.resume()
    assert job.wait() == 0, job.terminal()
    assert_nothing_is_lost(job)
    (event,) = told(job, "checkpoint_damaged")
    assert event.body["number"] == int(path.name)
    assert "is missing" in event.body["reason"]
    assert event.text in job.terminal()


@pytest.mark.timeout(900)
def test_where_no_checkpoint_is_whole_the_job_fails_in_one_line(start):
    job = start(*OPTIONS, records=RECORDS)
    wait_for_a_third_checkpoint(job)
    server = parameter_server(job, 0)
    with no_checkpoint_comes(job):
        for path in committed(job.directory / "checkpoints"):
            flip_a_byte(dense_file(path, 0))
        os.kill(server, signal.SIGKILL)
    assert job.wait() == 1
    job.assert_nothing_is_left()
    error = json.loads((job.directory / "result.json").read_text())["error"]
    assert error.endswith("and no older one is whole: the training has to begin again")
    assert error in job.terminal()
