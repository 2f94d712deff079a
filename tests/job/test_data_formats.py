"""Whole jobs over every format of data: the same audit, and the same weights, as over RecordIO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import elasticdl
from elasticdl.data import example
from elasticdl.data.recordio import Scanner
from elasticdl.data.tfrecord import TFRecordWriter
from elasticdl.errors import UsageError
from tests.job.clicks_data import ZOO, write_clicks

RECORDS = 400


def table_of(recordio: str, spread: bool = False) -> pa.Table:
    rows = [example.decode(record) for record in Scanner(recordio)]
    ids = np.array([row["ids"] for row in rows])
    columns = {
        "row": pa.array([int(row["row"][0]) for row in rows]),
        "number": pa.array([row["number"][0] for row in rows], pa.float32()),
        "label": pa.array([int(row["label"][0]) for row in rows]),
    }
    if spread:
        columns.update({f"id{i}": pa.array(ids[:, i]) for i in range(3)})
    else:
        columns["ids"] = pa.array(list(ids))
    return pa.table(columns)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    """The same records in every format: patterns by format."""
    directory = tmp_path_factory.mktemp("formats")
    patterns = {"recordio": write_clicks(directory, RECORDS)}
    for path in sorted(directory.glob("*.recordio")):
        table = table_of(str(path))
        pq.write_table(table, path.with_suffix(".parquet"), row_group_size=30)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(path.with_suffix(".arrow"), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=33)
        pa.csv.write_csv(table_of(str(path), spread=True), path.with_suffix(".csv"))
        with TFRecordWriter(path.with_suffix(".tfrecord")) as writer:
            for record in Scanner(path):
                writer.write(record)
    for kind in ("tfrecord", "parquet", "arrow", "csv"):
        patterns[kind] = str(directory / f"*.{kind}")
    return patterns


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def train(data: str, output: Path, model: str, **options) -> elasticdl.api.result.JobResult:
    given = {
        "model_zoo": ZOO,
        "model_def": model,
        "data": data,
        "output": str(output),
        "num_workers": 0,
        "minibatch_size": 16,
        "staleness": 0,
        "records_per_task": 50,
        "num_epochs": 2,
        "quiet": True,
    }
    return elasticdl.train(**{**given, **options})


def weights(output: Path) -> dict[str, np.ndarray]:
    with np.load(output / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def twin(data, tmp_path_factory):
    """What training on RecordIO gives: audit and weights, by the `drop_above` of the model."""
    found = {}
    for drop_above in (10**9, 299):
        output = tmp_path_factory.mktemp("twin") / "model"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))
            params = f"drop_above={drop_above}"
            result = train(
                data["recordio"],
                output,
                "clicks.Clicks",
                params=params,
                validation_data=data["recordio"],
            )
        found[drop_above] = result.audit, weights(output), result.metrics
    return found


@pytest.mark.parametrize(
    ("kind", "model", "drop_above"),
    [
        ("tfrecord", "clicks.Clicks", 10**9),
        ("parquet", "clicks_columns.Batches", 10**9),
        ("arrow", "clicks_columns.Batches", 10**9),
        ("csv", "clicks_columns.Batches", 10**9),
        ("parquet", "clicks_columns.Rows", 299),
        ("csv", "clicks_columns.Masked", 299),
        ("arrow", "clicks_columns.Masked", 299),
    ],
)
def test_every_format_gives_the_audit_and_the_weights_of_recordio(
    data, twin, tmp_path, kind, model, drop_above
):
    audit, expected, metrics = twin[drop_above]
    output = tmp_path / "model"
    result = train(
        data[kind], output, model, params=f"drop_above={drop_above}", validation_data=data[kind]
    )
    assert result.audit == audit
    assert result.metrics == metrics
    actual = weights(output)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def test_two_workers_count_every_row_once(data, tmp_path):
    result = train(
        data["parquet"], tmp_path / "model", "clicks_columns.Batches", num_workers=2, num_ps=2
    )
    assert result.audit["records_expected"] == 2 * RECORDS
    assert set(result.audit["applied_once"].values()) == {2 * RECORDS}
    assert (result.audit["lost"], result.audit["filtered"]) == (0, 0)


def test_predictions_keep_columns_and_the_types_of_the_training(data, tmp_path):
    """The new file's numbers are all whole; they are floats, as in the training."""
    train(data["csv"], tmp_path / "model", "clicks_columns.Batches", num_epochs=1)
    new = tmp_path / "new.csv"
    new.write_text("name,row,number,id0,id1,id2\n" + "a,7,1,1,2,3\n" + '"b, c",8,2,4,5,6\n')
    elasticdl.predict(
        trained_model=str(tmp_path / "model"),
        data=str(new),
        output=str(tmp_path / "p.parquet"),
        keep_columns=["name", "row"],
        num_workers=0,
        quiet=True,
    )
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [(row["name"], row["row"]) for row in rows] == [(b"a", 7), (b"b, c", 8)]
    model = elasticdl.load_model(str(tmp_path / "model"))
    outputs = model({"ids": np.array([[1, 2, 3], [4, 5, 6]]), "number": np.array([[1.0], [2.0]])})
    np.testing.assert_allclose([row["prediction"] for row in rows], np.ravel(outputs), rtol=1e-6)


def test_what_does_not_fit_is_one_line_before_anything_is_launched(data, tmp_path):
    mixed = f"{data['parquet']},{data['csv']}"
    for options, why in [
        ({"data": mixed}, "name files of one format"),
        ({"data": data["recordio"], "columns": "row"}, "columns 'row': the records of"),
        ({"columns": "row,labl"}, "columns 'labl': no such column"),
        ({"column_types": "labl=int64"}, "column_types 'labl': no such column"),
        ({"column_types": "label=int16"}, "column_types 'label=int16': unknown type"),
        ({"validation_data": data["recordio"]}, "one of it and"),
    ]:
        given = {"data": data["parquet"], **options}
        with pytest.raises(UsageError, match=why) as caught:
            train(given.pop("data"), tmp_path / "model", "clicks_columns.Batches", **given)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_check_names_the_columns_types(data, capsys):
    from elasticdl.api.command_line import main

    arguments = [f"--model_zoo={ZOO}", "--model_def=clicks_columns.Batches", "--json"]
    assert main(["check", f"--data={data['parquet']}", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_records"] == RECORDS
