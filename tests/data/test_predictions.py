import csv
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elasticdl.data import recordio
from elasticdl.data.example import decode
from elasticdl.data.predictions import PredictionWriter, check_output, merge_parts
from elasticdl.errors import DataError, UsageError


def minibatch(start, count, ragged=False):
    numbers = np.arange(start, start + count)
    return {
        "label": numbers,
        "score": (numbers / 2).astype(np.float32).reshape(-1, 1),
        "probabilities": np.stack([numbers, -numbers], 1).astype(np.float32),
        "name": [b"row %d" % number for number in numbers],
        "kept": [np.array([number] * 3, np.int64) for number in numbers],
        "word": [[b"w%d" % number] for number in numbers],
        "ids": [np.zeros(number % 3 if ragged else 1, np.int64) for number in numbers],
    }


@pytest.fixture
def write_parts(tmp_path):
    def write(ragged=False):
        parts = []
        for number, starts in enumerate([(0, 3), (), (6,), (9, 12, 15)]):
            parts.append(tmp_path / f"{number}.arrow")
            with PredictionWriter(parts[-1]) as writer:
                for start in starts:
                    writer.write(minibatch(start, 3, ragged))
            assert writer.num_rows == 3 * len(starts)
        return parts

    return write


def test_csv_has_the_rows_in_order_and_a_column_for_each_value(write_parts, tmp_path):
    output = tmp_path / "out" / "p.csv"
    assert merge_parts(write_parts(), output) == 18
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "label",
        "score",
        "probabilities_0",
        "probabilities_1",
        "name",
        "kept_0",
        "kept_1",
        "kept_2",
        "word",
        "ids",
    ]
    assert [row["label"] for row in rows] == [str(number) for number in range(18)]
    assert list(rows[5].values()) == ["5", "2.5", "5", "-5", "row 5", "5", "5", "5", "w5", "0"]


def test_parquet_has_plain_columns_and_lists(write_parts, tmp_path):
    assert merge_parts(write_parts(ragged=True), tmp_path / "p.parquet") == 18
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["label"].to_pylist() == list(range(18))
    assert table["score"].to_pylist() == [number / 2 for number in range(18)]
    assert table["probabilities"].to_pylist()[4] == [4.0, -4.0]
    assert table["name"].to_pylist()[17] == b"row 17"
    assert table["kept"].to_pylist()[17] == [17, 17, 17]
    assert table["ids"].to_pylist()[:3] == [[], [0], [0, 0]]


@pytest.mark.parametrize("ragged", [False, True])
def test_recordio_has_an_example_for_each_row(write_parts, tmp_path, ragged):
    assert merge_parts(write_parts(ragged), tmp_path / "p.recordio") == 18
    rows = [decode(record) for record in recordio.Scanner(tmp_path / "p.recordio")]
    assert [row["label"].tolist() for row in rows] == [[number] for number in range(18)]
    assert rows[5]["score"].tolist() == [2.5]
    assert rows[5]["probabilities"].tolist() == [5, -5]
    assert rows[5]["name"] == [b"row 5"]
    assert rows[5]["kept"].tolist() == [5, 5, 5]
    assert rows[5]["word"] == [b"w5"]
    assert [len(row["ids"]) for row in rows] == [n % 3 if ragged else 1 for n in range(18)]


def test_csv_refuses_what_it_cannot_hold_and_leaves_nothing(write_parts, tmp_path):
    parts = write_parts(ragged=True)
    output = tmp_path / "p.csv"
    output.write_text("before")
    with pytest.raises(UsageError, match="column 'ids' has rows of different lengths"):
        merge_parts(parts, output)
    part = tmp_path / "bytes.arrow"
    with PredictionWriter(part) as writer:
        writer.write({"x": [b"\xff"]})
    with pytest.raises(UsageError, match="column 'x' has bytes that are no UTF-8"):
        merge_parts([part], output)
    with PredictionWriter(part) as writer:
        writer.write({"x": np.zeros((1, 2)), "x_0": np.zeros(1)})
    with pytest.raises(UsageError, match="column names repeat"):
        merge_parts([part], output)
    assert output.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == [
        "0.arrow", "1.arrow", "2.arrow", "3.arrow", "bytes.arrow", "p.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".recordio"])
def test_parts_without_rows_give_an_output_without_rows(tmp_path, suffix):
    with PredictionWriter(tmp_path / "0.arrow"):
        pass
    with PredictionWriter(tmp_path / "1.arrow") as writer:
        writer.write({"x": np.zeros((0, 2), np.float32)})
    for parts in ([], ["0.arrow"], ["0.arrow", "1.arrow"]):
        output = tmp_path / f"p{len(parts)}{suffix}"
        assert merge_parts([tmp_path / part for part in parts], output) == 0
        assert output.exists()


def test_a_part_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "0.arrow"

    def write_and_fail():
        with PredictionWriter(path) as writer:
            writer.write({"x": np.zeros(3)})
            assert not path.exists()
            raise KeyError("why")

    with pytest.raises(KeyError):
        write_and_fail()
    assert os.listdir(tmp_path) == []


def test_parts_and_columns_that_do_not_match_are_named(tmp_path):
    for name, columns in [("0", {"x": np.zeros(1)}), ("1", {"x": np.zeros(1, np.int64)})]:
        with PredictionWriter(tmp_path / name) as writer:
            writer.write(columns)
            with pytest.raises(UsageError, match="those of earlier minibatches"):
                writer.write({"y": np.zeros(1)})
            with pytest.raises(UsageError, match="different lengths"):
                writer.write({"x": np.zeros(1), "y": np.zeros(2)})
            with pytest.raises(UsageError, match="column 'x' is complex128"):
                writer.write({"x": np.zeros(1, complex)})
            with pytest.raises(UsageError, match="column 'x' is a single value"):
                writer.write({"x": np.float32(1)})
            with pytest.raises(UsageError, match="column 'x' has rows of different kinds"):
                writer.write({"x": [np.zeros(1), [b"a"]]})
    with pytest.raises(UsageError, match=r"part '.*1': columns x: int64; '.*0' has x: double"):
        merge_parts([tmp_path / "0", tmp_path / "1"], tmp_path / "p.csv")


def test_missing_and_broken_parts_are_errors(tmp_path):
    with pytest.raises(DataError, match="missing or broken"):
        merge_parts([tmp_path / "none"], tmp_path / "p.csv")
    with pa.OSFile(str(tmp_path / "0"), "wb") as file:
        file.write(b"ARROW1 and no more")
    with pytest.raises(DataError, match="missing or broken"):
        merge_parts([tmp_path / "0"], tmp_path / "p.csv")


def test_the_suffix_says_the_format(tmp_path):
    assert check_output("a/b.CSV") == ".csv"
    with pytest.raises(
        UsageError, match=r"unknown suffix '.json'; one of .recordio, .parquet, .csv"
    ):
        merge_parts([], tmp_path / "p.json")
