"""``elasticdl jobs audit`` of jobs whose master cannot be asked, and what `scale` refuses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.command_line import main
from elasticdl.api.supervisor import write_json
from elasticdl.errors import JobError
from elasticdl.master.history import History
from elasticdl.master.journal import Journal
from elasticdl.master.ledger_events import TaskCompleted
from elasticdl.master.membership_events import Registered
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.api.test_jobs_events import job_dir
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import PLAN, Masters

__all__ = ["job_dir"]


def lose(job_dir: Path) -> None:
    error = "the supervisor was lost (killed by SIGKILL)"
    write_json(job_dir / "result.json", {"state": "failed", "error": error, "traceback": ""})


def begin(job_dir: Path, plan: JobPlan = PLAN) -> Masters:
    masters = Masters(job_dir, plan)
    first = masters.next()
    assert first.register(Registered(PS, "here:1", 1))
    assert first.register(Registered(WORKER, "", 2))
    return masters


@pytest.mark.parametrize("by_whom", ["supervisor", "all"])
def test_of_a_job_that_was_lost_the_journal_tells_and_says_of_when(job_dir, capsys, by_whom):
    masters = begin(job_dir)
    masters.coordinator.lease(WORKER, 0)
    masters.coordinator.lease(WORKER, 1)
    masters.kill()
    if by_whom == "supervisor":
        lose(job_dir)
    account = jobs.audit(str(job_dir))
    assert (account["records_expected"], account["in_progress"], account["lost"]) == (20, 20, 0)
    assert account["as_of"]["checkpoint"] is None
    assert main(["jobs", "audit", str(job_dir)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("audit: 20 records expected")
    assert "20 in progress" in printed
    assert "; as of the journal, 20" in printed


def test_of_an_evaluation_that_was_lost_what_was_counted_is_told(job_dir):
    masters = begin(job_dir, JobPlan((TaskKind.EVALUATION,), PLAN.shards, records_per_task=10))
    task = masters.coordinator.lease(WORKER, 0).task
    masters.coordinator.report(TaskCompleted(task.id, (1,), result='{"records": 9}'))
    masters.kill()
    lose(job_dir)
    account = jobs.audit(str(job_dir))
    told = ("records_expected", "counted_once", "filtered", "in_progress", "lost")
    assert [account[name] for name in told] == [40, 9, 1, 30, 0]


def test_the_audit_of_an_earlier_end_is_not_told_as_that_of_now(job_dir):
    masters = begin(job_dir)
    masters.coordinator.lease(WORKER, 0)
    before = {"state": "stopped", "audit": {"records_expected": 7}}
    masters.journal.append("result", before)
    write_json(job_dir / "result.json", before)
    assert jobs.audit(str(job_dir)) == {"records_expected": 7}, "nobody went on since"
    masters.next("second")
    masters.kill()
    lose(job_dir)
    assert jobs.audit(str(job_dir))["records_expected"] == 10


def test_a_job_that_never_came_to_a_plan_has_no_audit(job_dir):
    Journal(job_dir).close()
    lose(job_dir)
    with pytest.raises(JobError, match="it failed before there was anything to audit"):
        jobs.audit(str(job_dir))


@pytest.mark.parametrize("option", ["num_workers", "num_ps"])
def test_nobody_scales_a_job_to_nothing(job_dir, capsys, option):
    assert main(["jobs", "scale", str(job_dir), f"--{option}=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert "1" in line


def test_the_list_tells_how_far_a_job_was_of_how_much_when_it_ended(job_dir, monkeypatch, capsys):
    masters = begin(job_dir)
    history = History(masters.journal)
    history.add((time.time(), 1, 30, 10.0, None, 0.1, 2, 1, 0.5, 1 << 20))
    masters.journal.append("launch", {})
    masters.kill()
    lose(job_dir)
    (job_dir / "home" / "jobs").mkdir(parents=True)
    (job_dir / "home" / "jobs" / "mine").symlink_to(job_dir)
    monkeypatch.setenv("ELASTICDL_HOME", str(job_dir / "home"))
    (one,) = jobs.list_jobs()
    assert (one["state"], one["records_done"], one["records_expected"]) == ("failed", 30, 40)
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out.endswith("30 of 40 records (75 %)\n")
