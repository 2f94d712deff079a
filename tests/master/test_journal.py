"""The journal: in order, durable when asked, readable while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from elasticdl.errors import JobError
from elasticdl.master.journal import Journal, read_journal


def test_entries_come_back_in_order(tmp_path):
    journal = Journal(tmp_path)
    for number in range(50):
        journal.append("done", {"task": number}, durable=number % 7 == 0)
    journal.append("ended", {"state": "succeeded"})
    journal.close()
    assert [entry.body["task"] for entry in read_journal(tmp_path, "done")] == list(range(50))
    assert [entry.kind for entry in read_journal(tmp_path)][-1] == "ended"


WRITER = """
import sys
from elasticdl.master.journal import Journal
journal = Journal(sys.argv[1])
for number in range(100_000):
    journal.append("tasks", {"number": number}, durable=True)
    print(number, flush=True)
"""


def test_what_was_durable_survives_sigkill(tmp_path):
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
    journal.append("job", {"a": 1}, durable=True)
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
