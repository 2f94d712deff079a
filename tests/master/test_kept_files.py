"""What a master writes for others is also where the job's directory is: a directory, or a store."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from elasticdl.data.filesystems import file_system
from elasticdl.master import kept_files
from elasticdl.master.kept_files import KeptFiles
from tests.object_stores import Line, Store


def content_at(path: str) -> bytes:
    files, there = file_system(path)
    return files.read(there)


def now() -> None:
    """This is the job's one master."""


class Replaced(Exception):
    """Another one is the master."""


class SureTwice:
    """Waits until this is the job's one master, whose store is away until it was asked twice.

    Args:
      then: is raised when the store is there again.
    """

    def __init__(self, store: Store, line: Line, then: Exception | None = None) -> None:
        store.hurry()
        line.cut()
        self.asked = 0
        self._line = line
        self._then = then

    def __call__(self) -> None:
        self.asked += 1
        if self.asked == 2:
            self._line.mend()
            if self._then is not None:
                raise self._then


def test_what_is_written_is_here_and_there(store: Store, tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, f"{store.root}/job")
    kept.write("result.json", b"first", now)
    kept.write("result.json", b"second", now)
    assert content_at(f"{store.root}/job/result.json") == b"second"
    assert (tmp_path / "result.json").read_bytes() == b"second"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_a_master_without_a_directory_of_its_own_writes_once(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path)
    kept.write("result.json", b"here", now)
    kept.copy("result.json")
    kept.fetch("figures.json")
    assert (tmp_path / "result.json").read_bytes() == b"here"


def test_the_next_master_has_what_the_one_before_it_kept(s3: Store, tmp_path: Path) -> None:
    first, second = (KeptFiles(tmp_path / name, f"{s3.root}/job") for name in ("1", "2"))
    second.fetch("figures.json")
    assert not (tmp_path / "2").exists()
    first.write("figures.json", b"{}", now)
    second.fetch("figures.json")
    assert (tmp_path / "2" / "figures.json").read_bytes() == b"{}"
    first.write("figures.json", b"older than what is here", now)
    second.fetch("figures.json")
    assert (tmp_path / "2" / "figures.json").read_bytes() == b"{}"


def test_a_store_that_is_away_is_waited_for_as_long_as_this_is_the_master(
    s3: Store, line: Line, tmp_path: Path
) -> None:
    kept = KeptFiles(tmp_path, f"{s3.root}/job")
    sure = SureTwice(s3, line)
    kept.write("result.json", b"at last", sure)
    assert sure.asked > 2
    assert content_at(f"{s3.root}/job/result.json") == b"at last"


def test_who_is_replaced_meanwhile_puts_nothing(s3: Store, line: Line, tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, f"{s3.root}/job")
    with pytest.raises(Replaced):
        kept.write("result.json", b"too late", SureTwice(s3, line, then=Replaced()))
    assert file_system(s3.root)[0].files(s3.root) == []
    assert not (tmp_path / "result.json").exists()


def test_what_is_at_the_store_is_written_though_this_disk_is_not(s3: Store, tmp_path: Path) -> None:
    """A job whose result is there has ended as that says."""
    (tmp_path / "file").touch()
    kept = KeptFiles(tmp_path / "file", f"{s3.root}/job")
    kept.write("result.json", b"all that counts", now)
    assert content_at(f"{s3.root}/job/result.json") == b"all that counts"
    with pytest.raises(OSError, match="file"):
        KeptFiles(tmp_path / "file").write("result.json", b"", now)


def test_a_bucket_that_is_not_there_is_an_error_at_once(s3: Store, tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, "s3://none/job")
    with pytest.raises(FileNotFoundError, match="there is no bucket"):
        kept.write("result.json", b"", now)


def test_what_changes_all_the_time_is_put_now_and_then_and_a_failure_is_only_told(
    s3: Store,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    s3.hurry()
    kept = KeptFiles(tmp_path, f"{s3.root}/job")
    for content in (b"1", b"2"):
        (tmp_path / "figures.json").write_bytes(content)
        kept.copy_if_due("figures.json")
        wait_for_copy()
    assert content_at(f"{s3.root}/job/figures.json") == b"1"
    monkeypatch.setattr(kept_files, "COPY_S", 0.0)
    line.cut()
    with caplog.at_level(logging.WARNING):
        kept.copy_if_due("figures.json")
        wait_for_copy()
    assert "figures.json is not put into" in caplog.text
    line.mend()
    kept.copy_if_due("figures.json")
    wait_for_copy()
    assert content_at(f"{s3.root}/job/figures.json") == b"2"


def wait_for_copy() -> None:
    for thread in threading.enumerate():
        if thread.name == "figures.json":
            thread.join(60)
