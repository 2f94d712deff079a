"""Whole jobs with `--warm_spares`: idle processes become workers, and are started anew."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.master.journal import read_journal
from tests.job.real_jobs import RECORDS, Job, wait_until


def start_until_told(start, tmp_path: Path) -> Job:
    """Start a job with a spare, which ends by `assert_counted_once` only."""
    return start(
        "--warm_spares=1",
        "--num_epochs=10000",
        "--records_per_task=100",
        "--model_def=until_told.UntilTold",
        f"--params=path='{tmp_path}/end'",
        records=RECORDS // 4,
    )


def described(job: Job) -> dict:
    try:
        return json.loads((job.directory / "supervisor.json").read_text())
    except OSError:
        return {"processes": {}, "spares": {}}


def ready_spare(job: Job, *others: int) -> int:
    """Wait for a spare that is ready, and none of `others`; return its process id."""

    def ready() -> int | None:
        assert job.process.poll() is None, f"the job ended early:\n{job.terminal()}"
        spares = described(job)["spares"].values()
        pids = [one["pid"] for one in spares if one["is_ready"]]
        return next((pid for pid in pids if pid not in others), None)

    return wait_until("a spare that is ready", ready)


def kill_a_worker(job: Job) -> str:
    """Kill one that is running; return the name of its replacement."""
    victim = wait_until("a running worker", lambda: job.running("worker"))[0]
    os.kill(victim.pid, signal.SIGKILL)
    return f"worker-{victim.instance.index}.{victim.instance.incarnation + 1}"


def process_of(job: Job, name: str) -> int:
    return wait_until(name, lambda: described(job)["processes"].get(name))


def first_of(job: Job, pid: int) -> str:
    """The name of what runs as a process."""
    return next(name for name, one in described(job)["processes"].items() if one == pid)


def tasks_done_by(job: Job, name: str) -> set[int]:
    """Tasks that were leased to a worker and that are done."""
    index, incarnation = map(int, name.partition("-")[2].split("."))
    granted, done = set(), set()
    for entry in read_journal(job.directory):
        body = entry.body
        if entry.kind == "granted":
            if (body["worker"], body["incarnation"]) == (index, incarnation):
                granted.add(body["task"])
        elif entry.kind == "done" and body["kind"] == "TRAINING":
            done.add(body["task"])
    return granted & done


def assert_counted_once(job: Job, end: Path, relaunches: int) -> None:
    """End the job, and check that nothing is left of it, and that nothing was lost."""
    end.touch()
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = audit["records_expected"]
    assert expected > 0
    assert expected % job.records == 0
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["filtered"] == audit["skipped"] == 0
    assert audit["relaunches"] == relaunches
    assert described(job)["spares"] == {}


@pytest.mark.timeout(900)
def test_a_lost_worker_is_replaced_by_what_was_a_spare_and_spares_by_other_ones(start, tmp_path):
    job = start_until_told(start, tmp_path)
    killed = ready_spare(job)
    os.kill(killed, signal.SIGKILL)
    spare = ready_spare(job, killed)
    wait_until("training", job.records_done)
    workers = wait_until("workers", lambda: [one.pid for one in job.running("worker")])
    assert spare not in workers

    name = kill_a_worker(job)
    assert process_of(job, name) == spare
    pids = wait_until("it to be running", lambda: [one.pid for one in job.running("worker")])
    assert ready_spare(job, killed, spare) not in pids
    wait_until("a task of its own", lambda: tasks_done_by(job, name))

    survivor = next(pid for pid in described(job)["processes"].values() if pid in workers)
    log = job.directory / "logs" / f"{name}.log"
    launched, was_spare = (
        {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} for pid in (survivor, spare)
    )
    assert was_spare == {0: os.devnull, 1: str(log), 2: str(log)}
    survivors_log = str(log.with_name(f"{first_of(job, survivor)}.log"))
    assert launched == {0: os.devnull, 1: survivors_log, 2: survivors_log}
    master = described(job)["processes"]["master"]
    assert b"--early" in Path(f"/proc/{master}/cmdline").read_bytes().split(b"\0")
    environments = [
        set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")) for pid in (survivor, spare)
    ]
    assert environments[0] == environments[1]
    assert '"event": "computes on CPU' in log.read_text()
    assert_counted_once(job, tmp_path / "end", relaunches=1)


@pytest.mark.timeout(900)
def test_a_spare_that_dies_of_its_role_counts_as_that_worker_which_is_launched_again(
    start, tmp_path
):
    job = start_until_told(start, tmp_path)
    spare = ready_spare(job)
    os.kill(spare, signal.SIGSTOP)
    name = kill_a_worker(job)
    assert process_of(job, name) == spare
    os.kill(spare, signal.SIGKILL)
    index, _, incarnation = name.partition("-")[2].partition(".")
    again = f"worker-{index}.{int(incarnation) + 1}"
    process_of(job, again)
    wait_until("a task of the next one", lambda: tasks_done_by(job, again))
    assert_counted_once(job, tmp_path / "end", relaunches=2)
    exits = [entry.body for entry in read_journal(job.directory, "exited")]
    of_it = [one for one in exits if (one["index"], one["incarnation"]) == (int(index), 2)]
    assert [one["reason"] for one in of_it] == ["killed by SIGKILL"]
