"""Model files of the old ElasticDL find what they import."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from elasticdl.data import recordio
from elasticdl.errors import UsageError
from elasticdl.python import _NEW_HOMES

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"


@pytest.mark.parametrize("old", sorted(_NEW_HOMES))
def test_an_old_path_gives_the_very_names_of_today(old):
    module = importlib.import_module(f"elasticdl.python.{old}")
    assert _NEW_HOMES[old]
    for name, home in _NEW_HOMES[old].items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_a_path_that_is_not_in_the_map_says_what_there_is():
    with pytest.raises(ModuleNotFoundError, match=r"elasticdl\.python\.common\.constants"):
        importlib.import_module("elasticdl.python.common.log_utils")


def test_the_page_on_migrating_names_every_old_path():
    named = set(re.findall(r"^\| `([a-z_.]+)` \| `[A-Z]", PAGE.read_text(), re.MULTILINE))
    assert named == set(_NEW_HOMES) - {"elasticdl.layers"}


def test_the_old_recordio_reader_reads_a_directory(tmp_path):
    from elasticdl.python.data.reader.recordio_reader import RecordIODataReader

    with recordio.Writer(tmp_path / "a.recordio") as writer:
        for number in range(5):
            writer.write(b"%d" % number)
    reader = RecordIODataReader(data_dir=str(tmp_path))
    ((name, (start, count)),) = reader.create_shards().items()
    task = type("Task", (), {"shard_name": name, "start": 1, "end": 4})
    assert (start, count) == (0, 5)
    assert list(reader.read_records(task)) == [b"1", b"2", b"3"]


def test_the_old_recordio_reader_takes_what_data_names(tmp_path):
    from elasticdl.python.data.reader.recordio_reader import RecordIODataReader

    for name, count in (("a", 2), ("b", 3)):
        with recordio.Writer(tmp_path / f"{name}.recordio") as writer:
            for _ in range(count):
                writer.write(b"x")
    a, b = (str(tmp_path / name) for name in ("a.recordio", "b.recordio"))
    for origin, shards in (
        (f"{tmp_path}/*", {a: (0, 2), b: (0, 3)}),
        (b, {b: (0, 3)}),
        (f"{b},{a}", {a: (0, 2), b: (0, 3)}),
        (str(tmp_path), {a: (0, 2), b: (0, 3)}),
    ):
        assert RecordIODataReader(data_dir=origin).create_shards() == shards


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("empty", r"has no files; give a directory of RecordIO files, a pattern"),
        ("none/*", r"matches no file; .* give a path or a pattern"),
        ("none.recordio", r"no such file; give a path or a pattern"),
    ],
)
def test_the_old_recordio_reader_says_what_to_give(tmp_path, origin, why):
    from elasticdl.python.data.reader.recordio_reader import RecordIODataReader

    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"^data_dir '.*{re.escape(origin)}': {why}"):
        RecordIODataReader(data_dir=str(tmp_path / origin)).create_shards()
