"""The journal: in order, durable when asked, readable while it is written."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys

import pytest

from elasticdl.errors import JobError
from elasticdl.master.journal import Journal, read_journal


def test_entries_come_back_in_order(tmp_path):
    journal = Journal(tmp_path)
    for number in range(50):
        journal.write([("done", {"task": number})])
    journal.append("ended", {"state": "succeeded"})
    journal.close()
    assert [entry.body["task"] for entry in read_journal(tmp_path, "done")] == list(range(50))
    assert [entry.kind for entry in read_journal(tmp_path)][-1] == "ended"


WRITER = """
import sys
from elasticdl.master.journal import Journal
journal = Journal(sys.argv[1])
for number in range(100_000):
    journal.append("tasks", {"number": number})
    print(number, flush=True)
"""


def test_what_was_waited_for_survives_sigkill(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    told = -1
    for _ in range(50):
        told = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    written = [entry.body["number"] for entry in read_journal(tmp_path)]
    assert written[: told + 1] == list(range(told + 1))


def test_a_running_jobs_journal_can_be_read(tmp_path):
    journal = Journal(tmp_path)
    journal.append("job", {"a": 1})
    assert [entry.body for entry in read_journal(tmp_path)] == [{"a": 1}]
    journal.close()


def test_no_journal_and_a_damaged_one_are_errors(tmp_path):
    with pytest.raises(JobError, match=r"no journal.sqlite in it"):
        list(read_journal(tmp_path))
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(JobError, match="journal"):
        list(read_journal(tmp_path))
    with pytest.raises(JobError, match="journal"):
        Journal(tmp_path)


def test_what_cannot_be_written_is_tried_again_in_order_with_what_comes_later(tmp_path):
    journal = Journal(tmp_path)
    journal.append("done", {"task": 1})
    journal._db.execute("PRAGMA query_only = ON")
    number = journal.write([("done", {"task": 2}), ("done", {"task": 3})])
    with pytest.raises(JobError, match="readonly"):
        journal.wait_for(number)
    journal._db.execute("PRAGMA query_only = OFF")
    journal.append("done", {"task": 4})
    assert [entry.body["task"] for entry in read_journal(tmp_path)] == [1, 2, 3, 4]
    assert [entry.number for entry in read_journal(tmp_path)] == [1, 2, 3, 4]
    journal.close()


def test_a_journal_has_one_writer_and_the_death_of_it_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr("elasticdl.master.journal.LOCK_S", 0.2)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    writer.stdout.readline()
    with pytest.raises(JobError, match="another master of this job runs"):
        Journal(tmp_path)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    journal = Journal(tmp_path)
    assert journal.last_number > 0
    journal.close()


def test_entries_of_one_write_are_there_all_or_none(tmp_path):
    journal = Journal(tmp_path)
    journal._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON entries WHEN new.kind = 'b' "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(JobError, match="disk full"):
        journal.wait_for(journal.write([("a", {}), ("b", {})]))
    assert not list(read_journal(tmp_path))
    journal.close()


def test_who_is_told_hears_only_once_the_entries_are_on_disk(tmp_path):
    journal = Journal(tmp_path)
    heard: queue.Queue[tuple[JobError | None, int]] = queue.Queue()

    def told(failure: JobError | None) -> None:
        heard.put((failure, len(list(read_journal(tmp_path)))))

    for task in range(100):
        journal.when_on_disk(journal.write([("done", {"task": task}), ("leased", {})]), told)
    for task in range(100):
        failure, on_disk = heard.get(timeout=30.0)
        assert failure is None
        assert on_disk >= 2 * (task + 1)
    journal.when_on_disk(200, told)
    assert heard.get(timeout=30.0) == (None, 200), "what is there already is told at once"
    journal.close()


def test_who_is_told_hears_why_the_entries_are_not_on_disk(tmp_path):
    journal = Journal(tmp_path)
    heard: queue.Queue[JobError | None] = queue.Queue()
    journal._db.execute("PRAGMA query_only = ON")
    lost = journal.write([("done", {"task": 1})])
    journal.when_on_disk(lost, heard.put)
    assert "readonly" in str(heard.get(timeout=30.0))
    journal.when_on_disk(lost, heard.put)
    assert "readonly" in str(heard.get(timeout=30.0)), "no commit is under way that would tell"
    journal._db.execute("PRAGMA query_only = OFF")
    journal.when_on_disk(journal.write([("done", {"task": 2})]), heard.put)
    assert heard.get(timeout=30.0) is None
    journal.close()
    journal.when_on_disk(3, heard.put)
    assert "closed" in str(heard.get(timeout=30.0))


def test_large_groups_are_there_in_order(tmp_path):
    journal = Journal(tmp_path)
    entries = [("done", {"task": task}) for task in range(1000)]
    journal.wait_for(journal.write(entries))
    assert [entry.body for entry in read_journal(tmp_path)] == [body for _, body in entries]
    journal.close()


def test_of_large_groups_all_or_none_are_there(tmp_path):
    journal = Journal(tmp_path)
    journal._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON entries WHEN new.kind = 'b' "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(JobError, match="disk full"):
        journal.wait_for(journal.write([("a", {})] * 999 + [("b", {})]))
    assert not list(read_journal(tmp_path))
    journal.close()


def test_who_cannot_be_told_is_in_nobodys_way(tmp_path):
    journal = Journal(tmp_path)

    def told(failure: JobError | None) -> None:
        raise RuntimeError("it is gone")

    journal.when_on_disk(journal.write([("a", {})]), told)
    journal.append("b", {})
    journal.append("c", {})
    journal.close()
    assert [entry.kind for entry in read_journal(tmp_path)] == ["a", "b", "c"]


def test_closing_tells_of_what_it_still_writes_that_it_is_on_disk(tmp_path):
    journal = Journal(tmp_path)
    heard: queue.Queue[JobError | None] = queue.Queue()
    for task in range(50):
        journal.when_on_disk(journal.write([("done", {"task": task})]), heard.put)
    journal.close()
    assert [heard.get(timeout=30.0) for _ in range(50)] == [None] * 50
    assert len(list(read_journal(tmp_path))) == 50
