"""Readers of every format: any range is that of the whole, and damage is never read as data."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.data import recordio
from elasticdl.data.readers import detect_format, open_reader
from elasticdl.data.readers import recordio as recordio_reader
from elasticdl.data.schema import arrays_of, parse_schema, texts_of
from elasticdl.data.shards import find_shards
from elasticdl.data.tfrecord import TFRecordWriter
from elasticdl.errors import DataError, UsageError

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r"), max_size=9
)
ROWS = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.one_of(st.none(), st.floats(width=32)), TEXT),
    min_size=1,
    max_size=600,
)


def ranges(count: int, seed: int) -> list[tuple[int, int]]:
    chosen = random.Random(seed)
    pairs = [sorted((chosen.randint(0, count), chosen.randint(0, count))) for _ in range(5)]
    return [(0, count), (count, count), *((start, end) for start, end in pairs)]


@given(records=st.lists(st.binary(max_size=300), max_size=300), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_any_range_of_records_is_that_of_the_whole(records, seed):
    with TemporaryDirectory() as directory:
        paths = [f"{directory}/a.tfrecord", f"{directory}/a.recordio"]
        with TFRecordWriter(paths[0]) as one, recordio.Writer(paths[1], chunk_bytes=500) as other:
            for record in records:
                one.write(record)
                other.write(record)
        for path in paths:
            reader = open_reader(path)
            assert reader.num_records == len(records)
            for start, end in ranges(len(records), seed):
                assert reader.read(start, end) == records[start:end]


@given(rows=ROWS, seed=st.integers(0, 99), batch=st.integers(1, 700))
@settings(max_examples=30, deadline=None)
def test_any_range_of_rows_is_that_of_the_whole(rows, seed, batch):
    table = pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.int64()),
            "x": pa.array([row[1] for row in rows], pa.float32()),
            "text": pa.array([row[2] for row in rows]),
        }
    )
    schema = parse_schema(["id=int64", "x=float32", "text=bytes"])
    with TemporaryDirectory() as directory:
        pq.write_table(table, f"{directory}/a.parquet", row_group_size=batch)
        with pa.ipc.new_file(f"{directory}/a.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=batch)
        with Path(f"{directory}/a.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(table.column_names)
            writer.writerows([(i, "" if x is None else repr(x), text) for i, x, text in rows])
        for name in ("parquet", "arrow", "csv"):
            reader = open_reader(f"{directory}/a.{name}")
            assert reader.num_records == len(rows)
            if name != "csv":
                assert reader.schema() == schema
            for start, end in ranges(len(rows), seed):
                read = reader.read(start, end, schema)
                ids, x, texts = arrays_of(read, schema, "here")
                assert ids.tolist() == [row[0] for row in rows[start:end]]
                for got, (_, expected, _) in zip(x, rows[start:end], strict=True):
                    same = math.isnan(got) if expected is None else got == np.float32(expected)
                    assert same or (math.isnan(got) and math.isnan(expected))
                expected_texts = [row[2].encode() for row in rows[start:end]]
                if name == "csv":  # Spaces around a value do not count there.
                    expected_texts = [row[2].strip().encode() for row in rows[start:end]]
                    texts = [text.decode().strip().encode() for text in texts]
                assert list(texts) == expected_texts


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_byte_of_a_tfrecord_file_that_changed_is_an_error_with_file_and_offset(data):
    records = [b"a" * size for size in (0, 1, 7, 100)]
    with TemporaryDirectory() as directory:
        path = Path(directory) / "a.tfrecord"
        with TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        whole = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            position = data.draw(st.integers(0, len(whole) - 1))
            whole[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del whole[data.draw(st.integers(1, len(whole) - 1)) :]
        path.write_bytes(whole)
        read, error = None, ""
        try:
            reader = open_reader(str(path))
            read = reader.read(0, reader.num_records)
        except DataError as caught:
            error = str(caught)
        if read is None:
            assert "a.tfrecord': record" in error
            assert "at offset" in error
        else:
            # Cut between two frames, a file is a shorter one.
            assert read == records[: len(read)]
            assert len(read) < len(records)


def test_tensorflow_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    import tensorflow as tf

    records = [b"%d" % number * (number % 40) for number in range(300)]
    with TFRecordWriter(tmp_path / "ours") as writer:
        for record in records:
            writer.write(record)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert list(tf.data.TFRecordDataset(str(tmp_path / "ours")).as_numpy_iterator()) == records
    assert detect_format(str(tmp_path / "theirs")) == "tfrecord"
    assert open_reader(str(tmp_path / "theirs")).read(120, 290) == records[120:290]


def test_types_of_other_files_become_those_of_tensors(tmp_path):
    table = pa.table(
        {
            "small": pa.array([1, 2], pa.int8()),
            "double": pa.array([0.1, None], pa.float64()),
            "flag": pa.array([True, False]),
            "text": pa.array(["a", None]).dictionary_encode(),
            "day": pa.array([1, 2], pa.date32()),
            "at": pa.array([1, 2], pa.timestamp("ms", "UTC")),
            "ids": pa.array([[1, 2, 3], None], pa.list_(pa.int32())),
            "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    reader = open_reader(str(tmp_path / "a.parquet"))
    schema = reader.schema()
    assert texts_of(schema) == (
        "small=int64",
        "double=float32",
        "flag=bool",
        "text=bytes",
        "day=int64",
        "at=int64",
        "ids=int64[]",
        "vector=float32[2]",
    )
    arrays = arrays_of(reader.read(0, 2, schema), schema, "here")
    small, double, flag, text, day, at, ids, splits, vector = arrays
    assert small.tolist() == [1, 2]
    assert double[0] == np.float32(0.1)
    assert math.isnan(double[1])
    assert flag.tolist() == [True, False]
    assert text.tolist() == [b"a", b""]
    assert day.tolist() == [86_400 * 10**9, 2 * 86_400 * 10**9]
    assert at.tolist() == [10**6, 2 * 10**6]
    assert (ids.tolist(), splits.tolist()) == ([1, 2, 3], [0, 3, 3])
    assert vector.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_values_that_no_tensor_can_hold_say_what_to_do(tmp_path):
    path = str(tmp_path / "a.parquet")
    for array, types, why in [
        (pa.array([1, None, 3]), (), r"no value in row 1 of these; .*--column_types=x=float32"),
        (pa.array([2**64 - 1], pa.uint64()), (), "does not fit int64"),
        (pa.array(["a"]), ("x=int64",), "does not fit int64"),
    ]:
        pq.write_table(pa.table({"x": array}), path)
        reader = open_reader(path)
        schema = parse_schema(types) or reader.schema()
        with pytest.raises(DataError, match=why):
            arrays_of(reader.read(0, reader.num_records, schema), schema, "here")
    for kind, why in [
        (pa.decimal128(9, 2), "--column_types=x=float32"),
        (pa.struct([("a", pa.int64())]), "leave it out with --columns"),
    ]:
        pq.write_table(pa.table({"x": pa.array([None], kind)}), path)
        with pytest.raises(DataError, match=why):
            open_reader(path).schema()


def test_a_csv_value_that_does_not_fit_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('name,x\n"two\nlines",1\n\nb,2\nc,three\n')
    reader = open_reader(str(path))
    assert reader.num_records == 3
    assert reader.read(0, 1, parse_schema(["name=bytes"]))["name"].to_pylist() == [b"two\nlines"]
    with pytest.raises(DataError, match=r"line 6: column 'x' has 'three'; not a int64"):
        reader.read(1, 3, parse_schema(["name=bytes", "x=int64"]))
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match="line 3: 3 cells; the header names 2 columns"):
        open_reader(str(path)).read(0, 2, parse_schema(["a=int64"]))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damaged_columns_are_an_error_that_names_the_file(tmp_path, suffix):
    table = pa.table({"x": np.arange(100), "s": [str(n) for n in range(100)]})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path, row_group_size=10, write_page_checksum=True)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    whole = path.read_bytes()
    for length in range(8, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"a.{suffix}"):
            open_reader(str(path)).read(0, 100)


def test_row_groups_larger_than_allowed_are_refused_before_they_are_read(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": np.arange(10_000), "y": np.arange(10_000)}), path)
    with pytest.raises(DataError, match=r"row group 0 has more than max_chunk_bytes=100000"):
        open_reader(path, 100_000).read(0, 1)
    small = open_reader(path, 200_000)
    assert small.read(5, 6, parse_schema(["x=int64"]))["x"].to_pylist() == [5]


def test_a_small_file_that_unfolds_to_much_is_refused(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["a" * 10_000] * 20_000}), path)
    assert Path(path).stat().st_size < 100_000
    with pytest.raises(DataError, match="max_chunk_bytes"):
        open_reader(path, 1 << 20).read(0, 1)


def test_tasks_that_share_a_chunk_read_it_once(tmp_path, monkeypatch):
    path = str(tmp_path / "a.recordio")
    with recordio.Writer(path) as writer:
        for number in range(1000):
            writer.write(b"%d" % number)
    reads = []

    def read_range(*arguments):
        reads.append(arguments[1:3])
        return recordio.read_range(*arguments)

    monkeypatch.setattr(recordio_reader, "read_range", read_range)
    reader = open_reader(path)
    for start in range(0, 1000, 100):
        expected = [b"%d" % number for number in range(start, start + 100)]
        assert reader.read(start, start + 100) == expected
    assert reads == [(0, 1000)]


def test_formats_are_told_by_content_before_suffix_and_never_mixed(tmp_path):
    table = pa.table({"x": [1, 2]})
    pq.write_table(table, tmp_path / "odd.csv")
    assert detect_format(str(tmp_path / "odd.csv")) == "parquet"
    (tmp_path / "plain").write_text("x,y\n1,2\n")
    assert detect_format(str(tmp_path / "plain")) == "csv"
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="unknown suffix and contents"):
        detect_format(str(tmp_path / "a.bin"))
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match="is gzip, which cannot be read from the middle; gunzip"):
        find_shards(str(tmp_path / "a.csv.gz"))
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="is an Arrow stream"):
        find_shards(str(tmp_path / "stream.arrow"))
    with pytest.raises(UsageError, match="name files of one format"):
        find_shards(f"{tmp_path}/odd.csv,{tmp_path}/plain")
    pq.write_table(pa.table({"z": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="column 'x' is not in both"):
        find_shards(f"{tmp_path}/odd.csv,{tmp_path}/other.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(UsageError, match="has no records"):
        find_shards(str(tmp_path / "empty.parquet"))
