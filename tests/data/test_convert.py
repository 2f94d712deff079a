import gzip

import numpy as np
import pytest

from elasticdl.data import recordio
from elasticdl.data.convert import convert
from elasticdl.data.example import decode
from elasticdl.data.inspect import inspect
from elasticdl.errors import DataError, UsageError


def rows_of(path):
    return [
        {name: v if isinstance(v, list) else v.tolist() for name, v in decode(record).items()}
        for record in recordio.Scanner(path)
    ]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_csv_columns_get_the_narrowest_type_that_fits_the_whole_file(tmp_path):
    source = write(
        tmp_path / "a.csv",
        "id, ratio,name,mixed,huge,gap,none\n"
        '1,0.5,"a, b",1,18446744073709551615,,\n'
        "-2, 3,c,x,2,7,\n"
        "\n"
        "3,nan,,1.5,3,,\n",
    )
    summary = convert(source, tmp_path / "a.recordio")
    assert summary.columns == {
        "id": "int64",
        "ratio": "float32",
        "name": "bytes",
        "mixed": "bytes",
        "huge": "bytes",
        "gap": "int64",
        "none": "bytes",
    }
    assert summary.num_records == 3
    first, second, third = rows_of(tmp_path / "a.recordio")
    assert first["id"] == [1]
    assert first["ratio"] == [0.5]
    assert first["name"] == [b"a, b"]
    assert first["huge"] == [b"18446744073709551615"]
    assert "gap" not in first
    assert second["gap"] == [7]
    assert second["mixed"] == [b"x"]
    assert third["name"] == [b""]
    assert np.isnan(third["ratio"][0])


@pytest.mark.parametrize(
    "cells", [("1.5", "99999999999999999999"), ("99999999999999999999", "1.5")]
)
def test_the_order_of_rows_does_not_matter_for_types(tmp_path, cells):
    source = write(tmp_path / "a.csv", "x\n" + "\n".join(cells) + "\n")
    assert convert(source, tmp_path / "a.recordio").columns == {"x": "float32"}


def test_several_compressed_csv_files_are_one_table(tmp_path):
    for number in (1, 2):
        with gzip.open(tmp_path / f"{number}.csv.gz", "wt") as file:
            file.write(f"x\n{number}.5\n" if number == 2 else "x\n1\n")
    summary = convert(str(tmp_path / "*.csv.gz"), tmp_path / "a.recordio")
    assert summary.columns == {"x": "float32"}
    assert rows_of(tmp_path / "a.recordio") == [{"x": [1.0]}, {"x": [2.5]}]


def test_given_types_replace_inferred_ones(tmp_path):
    source = write(tmp_path / "a.csv", "zip,x\n01234,1\n")
    convert(source, tmp_path / "a.recordio", column_types={"zip": "bytes", "x": "float32"})
    assert rows_of(tmp_path / "a.recordio") == [{"x": [1.0], "zip": [b"01234"]}]
    source = write(tmp_path / "b.csv", "x\n1.5\n")
    with pytest.raises(DataError, match=r"line 2: column 'x' has '1\.5'; not a int64"):
        convert(source, tmp_path / "b.recordio", column_types={"x": "int64"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells; the header names 2 columns"),
        ("a,a\n1,2\n", "line 1: column names"),
        ("a,\n1,2\n", "line 1: column names"),
        ('a\n"open\n', "after line 1: unexpected end of data"),
        ("a\n\udcff\n", "UTF-8"),
    ],
)
def test_a_broken_csv_file_is_an_error_with_file_and_line(tmp_path, text, why):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=why) as caught:
        convert(str(path), tmp_path / "a.recordio")
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_arrays_become_columns_and_shapes_are_left_out(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([0.5, 1, 2, 3])
    names = np.array(["a", "b", "c", "d"])
    np.savez(tmp_path / "a.npz", image=images, label=labels, name=names)
    summary = convert(str(tmp_path / "a.npz"), tmp_path / "a.recordio", compressor="none")
    assert summary.columns == {"image": "int64[6]", "label": "float32", "name": "bytes"}
    rows = rows_of(tmp_path / "a.recordio")
    assert rows[1] == {"image": [6, 7, 8, 9, 10, 11], "label": [1.0], "name": [b"b"]}


@pytest.mark.parametrize("suffix", ["recordio", "parquet", "arrow"])
def test_a_conversion_tells_the_types_that_inspect_tells(tmp_path, suffix):
    np.savez(tmp_path / "d.npz", x=np.ones((3, 4), np.float32), y=np.arange(3))
    output = tmp_path / f"d.{suffix}"
    summary = convert(str(tmp_path / "d.npz"), output)
    assert "x (float32[4]), y (int64)" in str(summary)
    features = inspect(output).features
    assert features
    assert features["x"].type.partition("[")[0] == "float32"
    assert features["x"].shape == (4,)
    if suffix != "recordio":
        assert {name: each.type for name, each in features.items()} == summary.columns


def test_one_array_is_a_column_named_after_its_file(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(2))
    convert(str(tmp_path / "x.npy"), tmp_path / "a.recordio")
    assert rows_of(tmp_path / "a.recordio") == [{"x": [1.0, 0.0]}, {"x": [0.0, 1.0]}]


def test_arrays_that_are_no_table_are_named(tmp_path):
    path = tmp_path / "a.npz"
    for arrays, why in [
        ({"x": np.zeros(2), "y": np.zeros(3)}, "first dimensions"),
        ({"x": np.zeros(())}, "array 'x' has no dimension"),
        ({"x": np.zeros(2, complex)}, "array 'x' is complex128"),
        ({"x": np.array([{}])}, "allow_pickle"),
        ({}, "no arrays"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=why):
            convert(str(path), tmp_path / "a.recordio")
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="NumPy file"):
        convert(str(path), tmp_path / "a.recordio")


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({"num_shards": 3}, [4, 3, 3]), ({"records_per_file": 4}, [4, 4, 2])],
)
def test_rows_are_split_over_files_in_their_order(tmp_path, options, sizes):
    np.save(tmp_path / "x.npy", np.arange(10))
    summary = convert(str(tmp_path / "x.npy"), tmp_path / "out" / "train.recordio", **options)
    names = [f"train-{number:05d}-of-00003.recordio" for number in range(3)]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    assert [recordio.Index(file).num_records for file in summary.files] == sizes
    assert [row["x"] for file in summary.files for row in rows_of(file)] == [[i] for i in range(10)]


def test_an_existing_output_is_refused_and_replaced_whole_on_request(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10))
    source, output = str(tmp_path / "x.npy"), tmp_path / "train.recordio"
    convert(source, output, num_shards=3)
    for options in ({}, {"num_shards": 2}):
        with pytest.raises(UsageError, match="exists"):
            convert(source, output, **options)
    convert(source, output, num_shards=2, overwrite=True)
    files = sorted(file.name for file in tmp_path.glob("*.recordio"))
    assert files == ["train-00000-of-00002.recordio", "train-00001-of-00002.recordio"]


def test_wrong_options_say_what_would_be_right(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10))
    write(tmp_path / "a.csv", "a\n1\n")
    write(tmp_path / "empty.csv", "a\n")
    write(tmp_path / "a.xml", "")
    source, output = str(tmp_path / "x.npy"), tmp_path / "a.recordio"
    for inputs, options, why in [
        (source, {"num_shards": 0}, "num_shards '0'"),
        (source, {"records_per_file": -1}, "records_per_file '-1'"),
        (source, {"num_shards": 1, "records_per_file": 1}, "give one of them"),
        (source, {"num_shards": 11}, "there are 10 rows"),
        (source, {"compressor": "zstd"}, "one of none, snappy, gzip"),
        (source, {"column_types": {"x": "int64"}}, "NumPy arrays have their types"),
        (str(tmp_path / "empty.csv"), {}, "no rows"),
        (str(tmp_path / "a.xml"), {}, "unknown suffix"),
        (str(tmp_path / "none.csv"), {}, "no such file"),
        ([source, str(tmp_path / "a.csv")], {}, "one kind at a time"),
        (str(tmp_path / "a.csv"), {"column_types": {"b": "int64"}}, "no such column"),
        (str(tmp_path / "a.csv"), {"column_types": {"a": "int32"}}, "unknown type"),
        (str(tmp_path / "a.csv"), {"delimiter": "ab"}, "delimiter 'ab'"),
    ]:
        with pytest.raises(UsageError, match=why):
            convert(inputs, output, **options)
    with pytest.raises(UsageError, match="is one of the inputs"):
        convert(source, source, overwrite=True)
    assert not output.exists()
