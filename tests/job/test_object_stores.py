"""Whole jobs whose data, zoo, trained model and predictions are objects of a store."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import csv, parquet

import elasticdl
from elasticdl.api import jobs
from elasticdl.data.filesystems import Stores, file_system, use_stores
from elasticdl.errors import UsageError
from elasticdl.model.warm_start import check_warm_start
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.real_jobs import Job, wait_until
from tests.object_stores import Store

RECORDS = 400
SECRET = "not-to-be-told"


@pytest.fixture
def s3_endpoint(s3: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The option by which alone a job finds the store."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    use_stores(Stores(s3_endpoint=s3.endpoint))  # For this process, which fills it.
    return {"s3_endpoint": s3.endpoint}


def fill(store: Store, tmp_path: Path) -> str:
    """Put data and zoo into a store; return the data's pattern."""
    write_clicks(tmp_path / "data", RECORDS)
    files, root = file_system(store.root)
    files.upload(tmp_path / "data", f"{root}/data")
    files.upload(ZOO, f"{root}/zoo")
    return f"{root}/data/*.recordio"


def test_a_job_whose_files_are_objects_counts_every_record_once(
    s3: Store, tmp_path: Path, s3_endpoint: dict[str, str]
) -> None:
    data, output = fill(s3, tmp_path), f"{s3.root}/out/model"
    job = Job(
        tmp_path,
        data,
        RECORDS,
        f"--model_zoo={s3.root}/zoo",
        f"--output={output}",
        "--records_per_task=40",
        "--num_workers=2",
        "--num_ps=1",
        "--num_epochs=2",
        *(f"--{name}={value}" for name, value in s3_endpoint.items()),
    )
    line = s3.server.line
    try:
        wait_until("the first records", lambda: job.records_done() > 0)
        line.cut()
        time.sleep(2)
        assert job.process.poll() is None, job.terminal()
        line.mend()
        assert job.wait() == 0, job.terminal()
    finally:
        line.mend()
        job.kill_everything()
    account = jobs.audit(str(job.directory))
    assert account["records_expected"] == 2 * RECORDS
    assert set(account["applied_once"].values()) == {2 * RECORDS}
    assert account["lost"] == 0
    for file in (one for one in job.directory.rglob("*") if one.is_file()):
        assert SECRET.encode() not in file.read_bytes()
    check_model(output)

    given = {"data": data, "num_workers": 1, "num_ps": 1, "quiet": True, **s3_endpoint}
    with pytest.raises(UsageError, match=rf"^output '{output}': holds a trained model already"):
        elasticdl.train(model_zoo=ZOO, model_def="clicks.Clicks", output=output, **given)
    check_predictions(output, f"{s3.root}/out/predictions.csv", given)


def test_a_job_in_one_process_finds_its_objects_too(gcs: Store, tmp_path: Path) -> None:
    given = {"data": fill(gcs, tmp_path), "num_workers": 0, "quiet": True}
    output = f"{gcs.root}/out/model"
    trained = elasticdl.train(
        model_zoo=f"{gcs.root}/zoo", model_def="clicks.Clicks", output=output, **given
    )
    assert set(trained.audit["applied_once"].values()) == {RECORDS}
    assert trained.audit["lost"] == 0
    check_model(output)
    check_predictions(output, f"{gcs.root}/out/predictions.parquet", given)


def check_model(output: str) -> None:
    files, _ = file_system(output)
    there = {one.path.removeprefix(f"{output}/") for one in files.files(output)}
    assert {"trained_model.pb", "params.npz", "saved_model/saved_model.pb"} <= there
    assert not [one for one in there if "elasticdl" in one], "half done is left"
    check_warm_start(output)


def check_predictions(model: str, output: str, given: dict[str, Any]) -> None:
    """Predict, and see that every record is there once, in its place."""
    predicted = elasticdl.predict(trained_model=model, output=output, keep_columns="row", **given)
    assert predicted.audit["lost"] == 0
    files, _ = file_system(output)
    content = io.BytesIO(files.read(output))
    rows = csv.read_csv(content) if output.endswith(".csv") else parquet.read_table(content)
    assert rows["row"].to_pylist() == list(range(RECORDS))
    assert rows.column_names == ["row", "prediction"]
