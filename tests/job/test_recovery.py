"""Whole jobs whose parameter servers are killed: they are restored, and what is lost replayed."""

from __future__ import annotations

import json
import os
import signal

import pytest

from elasticdl.api import jobs
from elasticdl.master.journal import Entry, read_journal
from elasticdl.proto import master_pb2
from elasticdl.ps.manifest import committed, verify
from tests.job.keras_evaluate import keras_evaluate
from tests.job.real_jobs import RECORDS, Job, wait_until

NOBODY = master_pb2.JobStatus()
EPOCHS = 6


def entries(job: Job, kind: str) -> list[Entry]:
    return list(read_journal(job.directory, kind))


def kill_a_parameter_server(job: Job, index: int) -> None:
    """Kill one and wait until its replacement is launched."""

    def there() -> list[master_pb2.InstanceStatus]:
        return [one for one in job.running("ps") if one.instance.index == index]

    (victim,) = wait_until(f"parameter server {index}", there)
    os.kill(victim.pid, signal.SIGKILL)

    def is_replaced() -> bool:
        launched = [one.body for one in entries(job, "launch") if one.body["role"] == "ps"]
        newest = max(one["incarnation"] for one in launched if one["index"] == index)
        return newest > victim.instance.incarnation

    wait_until("its replacement", is_replaced)


@pytest.mark.timeout(900)
def test_parameter_servers_are_killed_in_every_phase_and_scaled_and_nothing_is_lost(
    start, tmp_path
):
    job = start(
        "--model_def=regularized.Regularized",
        f"--validation_data={tmp_path}/data/*.recordio",
        f"--num_epochs={EPOCHS}",
        f"--evaluation_epochs={EPOCHS}",
        "--records_per_task=80",
        "--checkpoint_steps=20",
        records=RECORDS // 2,
    )
    wait_until("training", lambda: job.records_done() > 0)
    kill_a_parameter_server(job, 0)
    done = job.records_done()
    wait_until("progress", lambda: job.records_done() > done)

    def is_writing() -> bool:
        begun = entries(job, "checkpoint_begun")
        ended = entries(job, "checkpoint") + entries(job, "checkpoint_retried")
        return len(begun) > max(1, len(ended))

    wait_until("a checkpoint that is being written", is_writing)
    kill_a_parameter_server(job, 1)
    jobs.scale(str(job.directory), num_ps=3)
    wait_until("three parameter servers", lambda: entries(job, "rescaled"))
    for index, phase in ((2, "evaluation"), (1, "export")):
        wait_until(phase, lambda phase=phase: (job.status() or NOBODY).phase == phase)
        kill_a_parameter_server(job, index)
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = EPOCHS * job.records
    assert audit["records_expected"] == expected
    assert audit["applied_once"] == {"0": expected, "1": expected, "2": expected}
    assert audit["lost"] == audit["tasks_not_closed"] == audit["evaluation"]["lost"] == 0
    assert audit["relaunches"] == 4, "no worker had to be replaced"
    assert job.terminal().count("is gone: killed by SIGKILL") == 4
    assert "3 parameter servers are up: training paused for" in job.terminal()
    result = json.loads((job.directory / "result.json").read_text())
    exact = keras_evaluate(str(job.output), f"{tmp_path}/data/*.recordio", 8)
    assert result["metrics"] == pytest.approx(exact, abs=1e-6)
    checkpoints = committed(job.directory / "checkpoints")
    assert [verify(path) for path in checkpoints] == [[]] * len(checkpoints)
    left = sorted((job.directory / "checkpoints").iterdir())
    assert left == checkpoints, "nothing half written is left"
