"""``elasticdl checkpoints``: of a checkpoint, a directory of them, or a job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from elasticdl.api.command_line import main
from elasticdl.job_spec import JobSpec
from tests.checkpoints import ask, commit
from tests.partitions import Servers


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job with a whole checkpoint, and an increment on it."""
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    directory = tmp_path / "jobs" / "mnist-1"
    spec = {"model_zoo": "zoo", "model_def": "a.B", "data": "data", "output": "out"}
    JobSpec.resolve("train", spec | {"job_name": "mnist-1"}).save(directory)
    root = directory / "checkpoints"
    servers = Servers(2)
    for number in (1, 2):
        servers.push(number - 1, np.arange(100 * number), 1.0, 1.0)
        for one in servers.partitions:
            ask(one, root, number, base=number - 1)
        commit(servers.partitions, root, number, base=number - 1)
    return directory


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["checkpoints", *words]) == code
    return capsys.readouterr().out


def test_a_job_a_directory_and_a_checkpoint_are_understood(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = job / "checkpoints"
    for place in ("mnist-1", str(job), str(root)):
        rows = json.loads(output(capsys, "list", place, "--json"))
        assert [(row["number"], row["steps"], row["kind"], row["state"]) for row in rows] == [
            (1, 1, "whole", "complete"),
            (2, 2, "increment", "complete"),
        ]
        assert rows[0]["bytes"] == sum(
            path.stat().st_size for path in (root / "0000000001").glob("*.arrow")
        )
    (row,) = json.loads(output(capsys, "list", str(root / "0000000001"), "--json"))
    assert row["directory"] == str(root / "0000000001")
    lines = output(capsys, "list", "mnist-1").splitlines()
    assert lines[0].split()[:2] == ["NUMBER", "STEPS"]
    assert len(lines) == 3


def test_inspect_says_what_the_newest_consists_of(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(output(capsys, "inspect", "mnist-1", "--json"))
    root = job / "checkpoints"
    assert found["number"] == 2
    assert found["builds_on"] == [str(root / "0000000001")]
    assert found["rows"] == {"rows": 200}
    assert (found["partitions"], found["bucket_groups"]) == (2, 64)
    assert found["bytes_in_all"] == sum(path.stat().st_size for path in root.glob("*/*.arrow"))
    text = output(capsys, "inspect", str(root / "0000000001"))
    assert "rows of rows: 100\n" in text
    assert "builds on: nothing\n" in text


def test_verify_names_what_is_damaged_and_fails(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted((job / "checkpoints").iterdir())
    assert output(capsys, "verify", "mnist-1") == f"{first}: whole\n{second}: whole\n"
    (second / "p1.1-dense.arrow").write_bytes(b"")
    assert main(["checkpoints", "verify", "mnist-1"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"{first}: whole"
    assert "p1.1-dense.arrow has 0 bytes" in printed.out
    assert printed.err == "elasticdl checkpoints verify: error: 1 of 2 checkpoints are damaged\n"
    found = json.loads(output(capsys, "verify", "mnist-1", "--json", code=1))
    assert [len(one["problems"]) for one in found] == [0, 1]
    assert "damaged" in output(capsys, "list", "mnist-1")


def test_an_increment_is_damaged_where_what_it_builds_on_is_gone(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(job / "checkpoints" / "0000000001")
    (row,) = json.loads(output(capsys, "list", "mnist-1", "--json"))
    assert (row["number"], row["state"]) == (2, "damaged")


@pytest.mark.parametrize("place", ["none", "."])
def test_where_no_checkpoint_is_one_line_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    assert main(["checkpoints", "list", place]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert f"'{place}': " in printed.err
