"""``elasticdl jobs events`` and ``resume``: what is told of a job, and when it may go on."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

from elasticdl.api.command_line import main
from elasticdl.api.commands.job import telling_failure
from elasticdl.api.event_lines import EventLines
from elasticdl.api.launcher import LAUNCHER_LOCK
from elasticdl.api.result import JobStatus
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.exits import End
from elasticdl.master.file_lock import own_file
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.membership_events import Registered
from elasticdl.master.story import Outcome
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import Masters


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    spec = JobSpec(
        command="train",
        job_name="mine",
        job_dir=str(tmp_path),
        model_zoo="zoo",
        model_def="a.B",
        data="data",
        output="output",
    )
    spec.save(tmp_path)
    return tmp_path


def test_every_event_has_its_time_and_reason(job_dir, capsys):
    masters = Masters(job_dir)
    first = masters.next()
    first.register(Registered(PS, "here:1", 1))
    first.register(Registered(WORKER, "", 2))
    grant = first.lease(WORKER, 0).grant
    first.report(ledger_events.TaskFailed(grant, "ValueError: bad\nrecord"))
    first.lease(WORKER, 1)
    masters.backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    second = masters.next()
    second.scale(2)
    again = InstanceSpec(Role.WORKER, 0, 2)
    task = second.lease(again, 0).task
    second.report(ledger_events.TaskCompleted(task.id, (1,), 1))
    masters.kill()

    assert main(["jobs", "events", str(job_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(datetime.fromisoformat(line.split("  ")[0]).tzinfo for line in lines)
    told = [line.split("  ", 1)[1] for line in lines]
    for expected in (
        "master             master, incarnation 1 begins",
        "launch             worker 0, incarnation 1: the job begins",
        "launch             worker 0, incarnation 2: in place of one that was lost (killed by "
        "SIGKILL)",
        "launch             worker 1, incarnation 1: there are 2 workers now",
        "registered         parameter server 0, incarnation 1 at here:1: is up",
        "granted            task 0 (training) is leased to worker 0",
        "raised             the model's code raised: ValueError: bad …",
        "exited             worker 0, incarnation 1: killed by SIGKILL",
        "master             master, incarnation 2 goes on from the journal",
        "scaled             2 workers are wanted",
        "done               task 0 (training)",
    ):
        assert expected in told
    assert not any(one.startswith("gone") for one in told), "its death is told once"
    assert any("will be leased again: worker 0 was lost (killed by SIGKILL)" in one for one in told)

    assert main(["jobs", "events", str(job_dir), "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["number"] for one in objects] == sorted({one["number"] for one in objects})
    (exited,) = [one for one in objects if one["kind"] == "exited"]
    assert (exited["role"], exited["index"], exited["reason"]) == ("worker", 0, "killed by SIGKILL")
    assert exited["time"] > 0


def test_no_password_is_told_of_by_events_status_or_how_a_job_ended(job_dir, capsys):
    secret = "mysql://joe:s3cret@db/t"
    masters = Masters(job_dir)
    first = masters.next()
    before = EventLines(job_dir, sys.stdout)
    first.register(Registered(PS, "here:1", 1))
    first.register(Registered(WORKER, "", 2))
    grant = first.lease(WORKER, 0).grant
    first.report(ledger_events.TaskFailed(grant, f"OSError: {secret}: no answer", f"at {secret}"))
    first.end(Outcome("failed", f"task 0: {secret}: no answer", f"Traceback: {secret}"))
    masters.kill()
    assert "s3cret" not in first.outcome.error + first.outcome.traceback
    before.show(JobStatus(state="starting", message=f"warning: {secret}"))
    assert main(["jobs", "events", str(job_dir)]) == 0
    assert main(["jobs", "events", str(job_dir), "--json"]) == 0
    assert main(["jobs", "status", str(job_dir)]) == 0
    assert main(["jobs", "status", str(job_dir), "--json"]) == 0
    with pytest.raises(JobError), telling_failure(json_events=True):
        raise JobError(f"{secret}: no answer")
    told = capsys.readouterr().out
    assert told.count("mysql://***@db/t: no answer") >= 4
    assert "warning: mysql://***@db/t" in told
    assert "s3cret" not in told


def test_a_job_that_runs_or_has_succeeded_is_not_resumed(job_dir, capsys):
    running = own_file(job_dir / LAUNCHER_LOCK)
    assert running is not None
    assert main(["jobs", "resume", str(job_dir)]) == 2
    out, error = capsys.readouterr()
    assert out == "", "nothing goes on"
    assert error == (
        "elasticdl jobs resume: error: job 'mine': it still runs; "
        f"elasticdl jobs stop {job_dir} ends it\n"
    )
    running.close()
    (job_dir / "result.json").write_text('{"state": "succeeded"}')
    assert main(["jobs", "resume", str(job_dir)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.endswith("job 'mine': it has succeeded; there is nothing to resume\n")
    assert len(error.splitlines()) == 1
