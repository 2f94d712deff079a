"""``elasticdl jobs``: what is passed on to the job, and what is printed of it."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.command_line import COMMANDS, main
from elasticdl.api.launcher import LAUNCHER_LOCK
from elasticdl.api.parser import DESCRIBE, Described
from elasticdl.api.result import audit_line
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.logs.line import LogLine
from elasticdl.master.file_lock import own_file


def job_in(directory: Path) -> Path:
    """The directory of a job that does not run."""
    job = directory / "mine"
    spec = JobSpec(
        command="train",
        job_name="mine",
        job_dir=str(job),
        model_zoo="zoo",
        model_def="a.B",
        data="data",
        output="output",
    )
    job.mkdir()
    spec.save(job)
    return job


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


def test_scale_and_stop_say_what_they_asked_for_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "scale", lambda job, **numbers: None)
    monkeypatch.setattr(jobs, "stop", lambda job: None)
    assert main(["jobs", "scale", "mnist-1", "--num_workers=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "mnist-1", "num_workers": 4}
    assert main(["jobs", "stop", "mnist-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "mnist-1", "state": "stopping"}


@pytest.mark.parametrize(
    ("state", "code", "line"),
    [
        ("succeeded", 0, "mine: succeeded"),
        ("failed", 1, "mine: failed: it ran out of luck"),
        ("stopped", 1, "mine: stopped"),
        (None, 1, "mine: lost"),
    ],
)
def test_wait_ends_with_how_the_job_ended(tmp_path, capsys, state, code, line) -> None:
    directory = job_in(tmp_path)
    error = "it ran out of luck\nand time" if state == "failed" else ""
    if state:
        (directory / "result.json").write_text(json.dumps({"state": state, "error": error}))
    assert main(["jobs", "wait", str(directory)]) == code
    assert capsys.readouterr().out == f"{line}\n"
    assert main(["jobs", "wait", str(directory), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["state"] == (state or "lost")


def test_wait_is_over_in_time_for_a_job_that_goes_on(tmp_path, capsys) -> None:
    directory = job_in(tmp_path)
    running = own_file(directory / LAUNCHER_LOCK)
    assert running is not None
    assert main(["jobs", "wait", str(directory), "--timeout=0"]) == 124
    assert "it has not ended in 0 s" in capsys.readouterr().err
    running.close()
    assert main(["jobs", "wait", str(directory), "--timeout=x"]) == 2


def test_logs_of_all_instances_are_shown_by_time(tmp_path, capsys) -> None:
    directory = job_in(tmp_path)
    (directory / "logs").mkdir()
    for name, seconds in {"worker-0.1": (1, 4), "worker-0.2": (5,), "ps-1.1": (2, 3)}.items():
        role, index, incarnation = re.fullmatch(r"(\w+)-(\d).(\d)", name).groups()
        lines = [
            LogLine(f"2026-11-23T02:00:0{at}+00:00", role, int(index), int(incarnation), *what)
            for at in seconds
            for what in [("ERROR" if at in (3, 4) else "INFO", f"event {at}")]
        ]
        text = "".join(f"{line.to_line()}\nprinted after {line.event}\n" for line in lines)
        (directory / "logs" / f"{name}.log").write_text(text)

    def shown(*words: str) -> list[str]:
        assert main(["jobs", "logs", str(directory), "--json", *words]) == 0
        return [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]

    def events(*numbers: int) -> list[str]:
        return [text for n in numbers for text in (f"event {n}", f"printed after event {n}")]

    assert shown() == events(1, 2, 3, 4, 5) == shown("-f")
    assert shown("--role=worker") == events(1, 4, 5)
    for words in (["--role=worker", "--index=1"], ["--index=9"], ["--role=master", "-f"]):
        assert main(["jobs", "logs", str(directory), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no log of" in line
        assert line.endswith("there are ps 1, worker 0")
    assert shown("--role=ps", "--index=1") == events(2, 3)
    assert shown("--lines=2") == events(5) == shown("--follow", "--lines=2")
    assert shown("--errors") == ["event 3", "event 4"]
    assert main(["jobs", "logs", str(directory), "--role=ps", "--lines=2"]) == 0
    head, printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\S+ \d\d:00:03.000\S+  ps-1.1      ERROR     event 3", head)
    assert printed.endswith("ps-1.1      OUTPUT    printed after event 3")
    assert main(["jobs", "logs", str(directory), "--role=wroker"]) == 2
    assert "--role='wroker': no such role; did you mean worker?" in capsys.readouterr().err


def test_list_is_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = datetime(2026, 11, 23, 2, 0, 1).astimezone()
    first = {"name": "mnist-1", "state": "running", "command": "train"}
    first |= {"began": began.timestamp(), "records_done": 600, "records_expected": 1000}
    lost = {"name": "a", "state": "lost", "command": None, "began": began.timestamp()}
    lost |= {"records_done": 1500, "records_expected": None}
    rows = [first, lost, {**lost, "records_done": None}]
    monkeypatch.setattr(jobs, "list_jobs", lambda: rows)
    assert main(["jobs", "list"]) == 0
    at = began.isoformat(" ", "seconds")
    assert capsys.readouterr().out.splitlines() == [
        f"{'NAME     STATE    COMMAND  BEGAN':<52}  PROGRESS",
        f"mnist-1  running  train    {at}  600 of 1,000 records (60 %)",
        f"a        lost              {at}  1,500 records",
        f"a        lost              {at}",
    ]
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    monkeypatch.setattr(jobs, "list_jobs", list)
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out == "no jobs\n"


OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"


@pytest.mark.parametrize(
    "command",
    [one for one in COMMANDS if one.words[0] == "jobs"],
    ids=lambda command: " ".join(command.words),
)
def test_every_command_takes_json_and_is_in_the_documents(command, capsys) -> None:
    with pytest.raises(Described) as described:
        command.run([DESCRIBE])
    assert "--json" in described.value.parser.names()
    assert main([*command.words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^Usage: elasticdl {command.name} .*\[--json\]$", shown, re.MULTILINE)
    documents = "\n".join(path.read_text("utf-8") for path in OPERATIONS.glob("*.md"))
    assert re.search(rf"elasticdl {command.name}\b|`{command.name}`", documents)


def test_a_job_that_does_not_run_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(job: str) -> None:
        raise JobError(f"job '{job}': it does not run")

    monkeypatch.setattr(jobs, "stop", refuse)
    assert main(["jobs", "stop", "old"]) == 1
    assert capsys.readouterr().err == "elasticdl jobs stop: error: job 'old': it does not run\n"
