"""Jobs over a reader of the user's own: its shards, counted once, and its faults told."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

import elasticdl
from elasticdl.api.job_pages import report
from elasticdl.errors import ElasticDLError, UserCodeError
from tests.job.clicks_data import ZOO
from tests.job.real_jobs import wait_until


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def train(data: str, output, **options) -> elasticdl.api.result.JobResult:
    given = {
        "model_zoo": ZOO,
        "model_def": "own_reader.custom_model",
        "data": data,
        "output": str(output),
        "num_workers": 0,
        "minibatch_size": 10,
        "records_per_task": 40,
        "quiet": True,
    }
    return elasticdl.train(**{**given, **options})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_declared_records_are_counted_once_and_learned(tmp_path, num_workers):
    result = train(
        "0_300+1000_125",
        tmp_path / "out",
        num_epochs=4,
        num_workers=num_workers,
        validation_data="500_60",
    )
    assert result.audit["records_expected"] == 4 * 425
    assert set(result.audit["applied_once"].values()) == {4 * 425}
    assert (result.audit["lost"], result.audit["filtered"]) == (0, 0)
    assert result.audit["evaluation"]["records_expected"] == 4 * 60  # every epoch
    assert result.metrics["mse"] < 0.05
    if num_workers == 0:
        evaluated = elasticdl.evaluate(
            trained_model=result.output, data="500_60", num_workers=0, quiet=True
        )
        assert evaluated.metrics["mse"] == pytest.approx(result.metrics["mse"])
        assert evaluated.audit["records_expected"] == 60


def test_a_worker_whose_code_hangs_is_replaced_and_the_record_range_is_read_by_another(tmp_path):
    # Both hang: of one alone, the other would be leased the task, too.
    result = train(
        f"{tmp_path}/hanging-0_300+1000_125", tmp_path / "out", num_workers=2, task_timeout=5
    )
    assert result.audit["records_expected"] == 425
    assert set(result.audit["applied_once"].values()) == {425}
    assert result.audit["relaunches"] >= 1
    logs = [log.read_text() for log in (Path(result.job_dir) / "logs").glob("worker-*.log")]
    said = "".join(text for text in logs if "s so far: this worker is ended and replaced" in text)
    assert "reading from" in said
    assert "own_reader.py" in said  # The stack shows where it hung.


def test_a_reader_that_yields_less_than_it_declares_is_named_before_the_launch(tmp_path):
    with pytest.raises(ElasticDLError, match=r"yields 9 records for shard 'from5'.*declares") as e:
        train("short-5_100", tmp_path / "out")
    assert e.value.exit_code == 2
    with pytest.raises(ElasticDLError, match=r"create_shards of .*: declares shards without"):
        train("0_0", tmp_path / "out")


def test_an_exception_of_the_reader_fails_the_job_with_its_traceback(tmp_path):
    with pytest.raises(UserCodeError, match=r"read_records of .*the table is gone") as caught:
        train("raising-0_300", tmp_path / "out")
    assert "own_reader.py" in caught.value.traceback_text


def test_the_password_of_a_source_is_shown_to_nobody_and_the_job_goes_on_with_it(start, tmp_path):
    job = start(
        "--model_def=own_reader.custom_model",
        "--data=mysql://joe:s3cret@db.example/0_300+1000_125",
        "--params=",
        "--num_epochs=40",
    )
    wait_until("the training", lambda: job.records_done() > 1000)
    url = re.search(r"dashboard: (http://\S+)", job.terminal())[1]
    with urllib.request.urlopen(f"{url}api/job", timeout=60) as answer:
        told = answer.read().decode()
    assert "mysql://***@db.example/0_300+1000_125" in told
    job.kill_everything()
    for name in ("job.yaml", "token"):
        assert (job.directory / name).stat().st_mode & 0o777 == 0o600, name
    job.resume()
    assert job.wait() == 0, job.terminal()
    assert "--data='mysql://***@db.example/0_300+1000_125'" in job.terminal()
    written = report(str(job.directory), str(tmp_path / "report.html")).read_text()
    assert "mysql://***@db.example" in written
    for shown in (told, job.terminal(), written):
        assert "s3cret" not in shown
