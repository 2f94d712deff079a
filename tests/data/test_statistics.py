"""What is told of columns, compared with NumPy; and conversions between all formats."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elasticdl.api.command_line import main
from elasticdl.data import recordio
from elasticdl.data.convert import convert
from elasticdl.data.example import decode, encode
from elasticdl.data.readers import open_reader
from elasticdl.data.statistics import describe_data
from elasticdl.errors import DataError

SUFFIXES = ("recordio", "tfrecord", "parquet", "arrow", "csv")


def table() -> pa.Table:
    random = np.random.default_rng(3)
    return pa.table(
        {
            "id": pa.array(random.integers(0, 2**62, 30_000)),
            "x": pa.array(random.normal(5, 2, 30_000).astype(np.float32)),
            "label": pa.array(random.integers(0, 3, 30_000)),
            "name": pa.array([None if n % 10 == 0 else f"n{n % 7}" for n in range(30_000)]),
        }
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_statistics_are_those_of_numpy_in_every_format(tmp_path, suffix):
    whole = table()
    pq.write_table(whole, tmp_path / "a.parquet", row_group_size=7000)
    path = str(tmp_path / f"b.{suffix}")
    convert(str(tmp_path / "a.parquet"), path)
    found = describe_data(path)
    assert found.num_records == 30_000
    x, ids = whole["x"].to_numpy(), whole["id"].to_numpy()
    column = found.columns["x"]
    assert column.type == "float32"
    np.testing.assert_allclose(
        [column.min, column.max, column.mean, column.std],
        [x.min(), x.max(), x.astype(np.float64).mean(), x.astype(np.float64).std()],
        rtol=1e-6,
    )
    column = found.columns["id"]
    assert (column.min, column.max, column.is_estimate) == (ids.min(), ids.max(), True)
    assert column.distinct == pytest.approx(len(np.unique(ids)), rel=0.06)
    column = found.columns["label"]
    assert (column.distinct, column.is_estimate) == (3, False)
    values, counts = np.unique(whole["label"].to_numpy(), return_counts=True)
    assert dict(column.top) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    column = found.columns["name"]
    missing = 0 if suffix == "csv" else 3000  # An empty cell is an empty string there.
    assert (column.type, column.missing) == ("bytes", missing)
    assert column.lengths == (0 if suffix == "csv" else 2, column.lengths[1], 2)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(SUFFIXES, 2)))
def test_any_format_becomes_any_other_and_keeps_every_value(tmp_path, source, target):
    whole = table().slice(0, 500).drop_columns(["name"])
    pq.write_table(whole, tmp_path / "a.parquet")
    convert(str(tmp_path / "a.parquet"), tmp_path / f"b.{source}")
    convert(str(tmp_path / f"b.{source}"), tmp_path / f"c.{target}", num_shards=3)
    for name in whole.column_names:
        values = []
        for path in sorted(tmp_path.glob(f"c-*.{target}")):
            reader = open_reader(str(path))
            records = reader.read(0, reader.num_records)
            if isinstance(records, list):
                values += [decode(record)[name][0] for record in records]
            else:
                values += records[name].to_pylist()
        assert values == whole[name].to_pylist()


def test_examples_of_many_shapes_become_columns(tmp_path):
    with recordio.Writer(tmp_path / "a.recordio") as writer:
        for n in range(1, 4):
            features = {"one": n, "two": [n, n], "many": list(range(n)), "text": f"é{n}"}
            writer.write(encode(features if n != 2 else features | {"gap": 0.5}))
    convert(str(tmp_path / "a.recordio"), tmp_path / "a.parquet")
    read = pq.read_table(tmp_path / "a.parquet")
    assert read["one"].to_pylist() == [1, 2, 3]
    assert read.schema.field("two").type == pa.list_(pa.int64(), 2)
    assert read["many"].to_pylist() == [[0], [0, 1], [0, 1, 2]]
    assert read["gap"].to_pylist() == [None, 0.5, None]
    assert read["text"].to_pylist()[0] == "é1".encode()
    found = describe_data(str(tmp_path / "a.recordio")).columns
    assert (found["many"].type, found["many"].lengths) == ("int64[]", (1, 2.0, 3))
    assert (found["gap"].count, found["gap"].missing) == (1, 2)


def test_records_that_are_no_examples_are_copied_but_have_no_columns(tmp_path):
    with recordio.Writer(tmp_path / "a.recordio") as writer:
        for record in (b"\xff\xff", b""):
            writer.write(record)
    convert(str(tmp_path / "a.recordio"), tmp_path / "a.tfrecord")
    assert open_reader(str(tmp_path / "a.tfrecord")).read(0, 2) == [b"\xff\xff", b""]
    with pytest.raises(DataError, match=r"a.recordio': record of 2 bytes: not a serialized"):
        convert(str(tmp_path / "a.recordio"), tmp_path / "a.parquet")


def test_a_conversion_keeps_the_types_of_column_formats(tmp_path):
    whole = pa.table({"day": pa.array([1, 2], pa.date32()), "s": ["a", "b"]})
    pq.write_table(whole, tmp_path / "a.parquet")
    convert(str(tmp_path / "a.parquet"), tmp_path / "a.arrow")
    assert pa.ipc.open_file(str(tmp_path / "a.arrow")).read_all() == whole


def test_the_command_prints_statistics_as_text_and_as_json(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("x,y\n1,a\n2,b\n,b\n")
    assert main(["data", "stats", str(tmp_path / "a.csv")]) == 0
    assert "x: int64, 2 there, 1 missing, 2 distinct" in capsys.readouterr().out
    assert main(["data", "stats", str(tmp_path / "a.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"]["y"]["top"] == [["b", 2], ["a", 1]]
    assert main(["data", "inspect", str(tmp_path / "a.csv"), "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)
    assert (file["format"], file["num_records"]) == ("csv", 3)
    assert main(["data", "stats", str(tmp_path / "none.csv")]) == 2
