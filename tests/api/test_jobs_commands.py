"""``elasticdl jobs``: what is passed on to the job, and what is printed of it."""

from __future__ import annotations

import json

import pytest

from elasticdl.api import jobs
from elasticdl.api.command_line import main
from elasticdl.api.result import audit_line
from elasticdl.errors import JobError

AUDIT = {
    "records_expected": 10,
    "applied_once": {0: 10},
    "repeats_dropped": 1,
    "filtered": 0,
    "skipped": 0,
    "lost": 0,
}


def test_audit_prints_a_line_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "audit", lambda job: AUDIT if job == "mnist-1" else {})
    assert main(["jobs", "audit", "mnist-1"]) == 0
    assert capsys.readouterr().out == f"{audit_line(AUDIT)}\n"
    assert main(["jobs", "audit", "mnist-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records_expected"] == 10


def test_scale_and_stop_reach_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(jobs, "scale", lambda job, **numbers: asked.append((job, numbers)))
    monkeypatch.setattr(jobs, "stop", asked.append)
    assert main(["jobs", "scale", "mnist-1", "--num_workers=4"]) == 0
    assert main(["jobs", "stop", "mnist-1"]) == 0
    assert main(["jobs", "scale", "mnist-1", "--num_workers=1", "--num_ps=3"]) == 0
    assert asked == [
        ("mnist-1", {"num_workers": 4}),
        "mnist-1",
        ("mnist-1", {"num_workers": 1, "num_ps": 3}),
    ]


def test_list_is_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": "mnist-1", "state": "running"}, {"name": "a", "state": "succeeded"}]
    monkeypatch.setattr(jobs, "list_jobs", lambda: rows)
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out == "NAME     STATE\nmnist-1  running\na        succeeded\n"
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    monkeypatch.setattr(jobs, "list_jobs", list)
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out == "no jobs\n"


def test_a_job_that_does_not_run_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(job: str) -> None:
        raise JobError(f"job '{job}': it does not run")

    monkeypatch.setattr(jobs, "stop", refuse)
    assert main(["jobs", "stop", "old"]) == 1
    assert capsys.readouterr().err == "elasticdl jobs stop: error: job 'old': it does not run\n"
