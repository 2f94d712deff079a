"""Data that is objects of a store: the same records and the same errors as of files."""

import contextlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from elasticdl.data import object_stores, recordio
from elasticdl.data.data_reader import RecordIODataReader
from elasticdl.data.filesystems import Stores, file_system, use_stores
from elasticdl.data.predictions import PredictionWriter, merge_parts
from elasticdl.data.readers import detect_format, open_reader
from elasticdl.data.recordio import Scanner
from elasticdl.data.shards import Shard, find_shards, load_shards, save_shards
from elasticdl.data.tfrecord import TFRecordWriter
from elasticdl.errors import DataError, UsageError

ROWS = 700
KINDS = ("recordio", "tfrecord", "parquet", "arrow", "csv")


@pytest.fixture
def local(tmp_path):
    """A directory with a file of each format; of RecordIO one of small chunks, one of large."""
    values = np.random.default_rng(1).normal(size=ROWS).astype(np.float32)
    table = pa.table({"a": np.arange(ROWS), "b": values, "c": [f"text, {i}" for i in range(ROWS)]})
    directory = tmp_path / "local"
    directory.mkdir()
    pq.write_table(table, directory / "rows.parquet", row_group_size=90)
    with pa.ipc.new_file(directory / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=77)
    pa.csv.write_csv(table, directory / "rows.csv")
    chance = random.Random(2)
    records = [chance.randbytes(i % 900) for i in range(ROWS)]
    with TFRecordWriter(directory / "rows.tfrecord") as writer:
        for record in records:
            writer.write(record)
    for name, chunk_bytes in (("rows.recordio", 500), ("wide.recordio", 200_000)):
        with recordio.Writer(directory / name, "none", chunk_bytes) as writer:
            for record in records:
                writer.write(record)
    return directory


def test_every_range_of_objects_is_that_of_the_files(store, local):
    files, root = file_system(f"{store.root}/data")
    files.upload(local, root)
    chosen = random.Random(3)
    for name in (*(f"rows.{kind}" for kind in KINDS), "wide.recordio"):
        here, there = open_reader(str(local / name)), open_reader(f"{root}/{name}")
        assert detect_format(f"{root}/{name}") == detect_format(str(local / name))
        assert (there.path, there.num_records) == (f"{root}/{name}", ROWS)
        assert (there.names(), there.schema()) == (here.names(), here.schema())
        for start, end in [(0, ROWS), (5, 5), *(sorted(chosen.choices(range(ROWS), k=2)),) * 3]:
            assert there.read(start, end) == here.read(start, end), (name, start, end)
        assert open_reader(f"{root}/{name}") is there
    assert find_shards(f"{root}/*.recordio") == [
        Shard(f"{root}/rows.recordio", ROWS),
        Shard(f"{root}/wide.recordio", ROWS),
    ]
    assert list(Scanner(f"{root}/wide.recordio", 3, 5)) == list(
        Scanner(local / "wide.recordio", 3, 5)
    )
    records = RecordIODataReader(data_dir=f"{root}/*.recordio")
    assert records.create_shards() == {
        f"{root}/rows.recordio": (0, ROWS),
        f"{root}/wide.recordio": (0, ROWS),
    }


def test_an_object_that_was_replaced_is_read_anew_and_one_that_broke_is_named(s3, local):
    files, root = file_system(f"{s3.root}/data")
    files.upload(local, root)
    path = f"{root}/rows.recordio"
    assert open_reader(path).num_records == ROWS
    whole = files.read(path)
    files.put(path, whole[:-7])
    with pytest.raises(DataError, match=rf"'{path}': chunk \d+ at offset \d+ claims"):
        open_reader(path)
    files.put(path, whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(DataError, match=rf"'{path}': chunk 0 at offset 0 has CRC32"):
        open_reader(path).read(0, 1)
    files.put(f"{root}/broken.parquet", b"PAR1" + bytes(100))
    with pytest.raises(DataError, match=r"broken.parquet': Parquet magic bytes not found"):
        open_reader(f"{root}/broken.parquet")


def test_what_names_no_object_says_what_there_is(store, local):
    files, root = file_system(f"{store.root}/data")
    files.upload(local, root)
    for pattern, why in {
        f"{root}/row.csv": f"no such object; did you mean '{root}/rows.csv'?",
        f"{root}/*.csv.gz": "matches no object; give",
        root: f"is a directory; name its files: '{root}/*.recordio'",
        f"{store.scheme}://no-such-bucket/a.csv": "there is no bucket 'no-such-bucket' at http",
        f"{root}/rows.csv,{root}/rows.parquet": "is parquet, '.*' is csv; name files of one",
    }.items():
        with pytest.raises(UsageError) as caught:
            find_shards(pattern)
        found = str(caught.value)
        assert why.replace(".*", f"{root}/rows.csv") in found
        assert "\n" not in found


def test_a_store_that_goes_away_while_data_is_read_is_waited_for(s3, line, local, monkeypatch):
    files, root = file_system(f"{s3.root}/data")
    files.upload(local, root)
    monkeypatch.setattr(object_stores, "_connected", {})
    monkeypatch.setattr(object_stores, "_S3_ATTEMPTS", 1)
    monkeypatch.setattr(object_stores, "_LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(object_stores.time, "sleep", lambda seconds: line.mend())
    use_stores(Stores(patience_s=60))
    for kind in KINDS:
        here = open_reader(str(local / f"rows.{kind}"))
        there = open_reader(f"{root}/rows.{kind}")
        line.cut()
        assert there.read(9, 600) == here.read(9, 600), kind
        line.mend()
    use_stores(Stores())
    line.cut()
    with pytest.raises(DataError, match=r"rows.recordio': no answer from http") as caught:
        open_reader(f"{root}/rows.recordio")
    assert "name a RecordIO file" not in str(caught.value)


def test_parts_of_predictions_become_one_object(store):
    root = store.root
    parts = [f"{root}/parts/part-{number}.arrow" for number in range(3)]
    for number, part in enumerate(parts):
        with PredictionWriter(part) as writer:
            writer.write({"row": np.arange(5) + 5 * number, "prediction": np.full((5, 2), 0.5)})
    files, _ = file_system(root)
    with contextlib.suppress(RuntimeError), PredictionWriter(parts[0]) as writer:
        writer.write({"row": np.arange(1)})
        raise RuntimeError
    for suffix in (".csv", ".parquet", ".recordio"):
        assert merge_parts(parts, f"{root}/out/rows{suffix}") == 15
        assert open_reader(f"{root}/out/rows{suffix}").num_records == 15
    rows = pq.read_table(pa.BufferReader(files.read(f"{root}/out/rows.parquet")))
    assert rows["row"].to_pylist() == list(range(15))
    with pytest.raises(UsageError, match=r"output '.*://no-such-bucket/a.csv': there is no bucket"):
        merge_parts(parts, f"{store.scheme}://no-such-bucket/a.csv")


def test_shards_that_a_reader_declared_may_be_an_object(store):
    directory = f"{store.root}/job"
    assert load_shards(directory) is None
    save_shards(directory, {"data": [("a", 3, 0)]})
    assert load_shards(directory) == [Shard("a", 3, 0)]
