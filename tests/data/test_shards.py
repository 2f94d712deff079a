import os
from pathlib import Path

import pytest

from elasticdl.data import recordio
from elasticdl.data.inspect import inspect
from elasticdl.data.shards import Shard, find_shards
from elasticdl.errors import DataError, UsageError

FILES = Path(__file__).parent / "files"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in [("b.recordio", 2), ("a.recordio", 1), ("odd[1],x.recordio", 3)]:
        with recordio.Writer(name) as writer:
            for _ in range(count):
                writer.write(b"record")
    return tmp_path


def test_patterns_become_sorted_shards_each_once(data):
    a, b = Shard(str(data / "a.recordio"), 1), Shard(str(data / "b.recordio"), 2)
    odd = Shard(str(data / "odd[1],x.recordio"), 3)
    assert find_shards("b.recordio, a.recordio") == [a, b]
    assert find_shards(f"{data}/?.recordio,a.recordio") == [a, b]
    assert find_shards("*.recordio") == [a, b, odd]
    assert find_shards("odd[1],x.recordio") == [odd]


def test_what_cannot_be_read_is_named_with_its_option(data):
    (data / "empty.recordio").touch()
    (data / "text.recordio").write_text("age,income\n1,2\n" * 9)
    (data / "directory").mkdir()
    for pattern, why in [
        ("c.recordio", "validation_data 'c.recordio': no such file"),
        ("c*", "'c\\*': matches no file"),
        ("a.recordio,", "names no file"),
        ("", "names no file"),
        ("directory", "is a directory; name its files: 'directory/\\*.recordio'"),
        ("empty.recordio", "has no records"),
        ("text.recordio", "chunk 0 at offset 0 .* not RecordIO"),
    ]:
        with pytest.raises(UsageError, match=why):
            find_shards(pattern, option="validation_data")
    os.mkfifo("fifo")
    with pytest.raises(DataError, match="not a regular file"):
        find_shards("fifo")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("aa.recordoi", "no such file; did you mean 'a.recordio'?"),
        ("test-images.recordio", "no such file; the directory has 'a.recordio', 'b.recordio', "),
        ("none/a.recordio", "there is no directory 'none'; give a path or a pattern such as data/"),
        ("*.csv", "matches no file; give a path or a pattern such as data/*.csv"),
        ("train-*", "matches no file; the directory has 'a.recordio', 'b.recordio', "),
        ("d*/x*", "matches no file; give a path or a pattern such as data/*.recordio"),
    ],
)
def test_a_pattern_that_names_nothing_is_answered_with_what_is_there(data, pattern, hint):
    with pytest.raises(UsageError) as caught:
        find_shards(pattern)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["a.recordio/x", "a.recordio/x/y"])
def test_a_file_in_the_place_of_a_directory_is_one_clear_error(data, path):
    with pytest.raises(UsageError, match="cannot be written"), recordio.Writer(path):
        pass


def test_inspect_tells_what_a_file_holds():
    summary = inspect(FILES / "iris.recordio", verify=True)
    assert (summary.num_records, summary.num_chunks, summary.compressors) == (150, 1, ("snappy",))
    assert summary.features
    assert {feature.shape for feature in summary.features.values()} == {(1,)}
    assert all(name in str(summary) for name in summary.features)
    assert "every chunk verified" in str(summary)
    assert summary.as_dict()["num_records"] == 150


def test_inspect_takes_files_that_hold_no_examples(tmp_path):
    summary = inspect(FILES / "golden_none.recordio")
    assert (summary.num_records, summary.num_chunks, summary.features) == (1000, 121, None)
    assert "not a tf.train.Example" in str(summary)
    with recordio.Writer(tmp_path / "x"):
        pass
    assert inspect(tmp_path / "x").first_record_bytes is None


def test_inspect_verifies_every_chunk_on_request(tmp_path):
    data = bytearray((FILES / "golden_none.recordio").read_bytes())
    data[-1] ^= 1
    path = tmp_path / "x.recordio"
    path.write_bytes(data)
    inspect(path)
    with pytest.raises(DataError, match="chunk 120"):
        inspect(path, verify=True)
