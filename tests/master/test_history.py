"""A job's history: bounded, in the journal's file, and in nobody's way."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest

from elasticdl.master.history import FIRST_INTERVAL_S, History, read_history
from elasticdl.master.journal import FILE_NAME, Journal, read_journal

BEGAN = 1_700_000_000.0


@pytest.fixture
def journal(tmp_path: Path):
    made = Journal(tmp_path)
    yield made
    made.close()


def fill(history: History, first: int, last: int) -> None:
    for second in range(first, last):
        history.add((BEGAN + second, 1, 10 * second, 10.0, None, 0.1, 2, 1, 0.5, 1 << 20))


def test_a_long_job_has_no_more_rows_than_a_short_one(journal):
    history = History(journal, most_rows=100)
    fill(history, 0, 5000)
    rows = history.rows()
    assert 50 <= len(rows) <= 100
    assert history.interval_s == 64 * FIRST_INTERVAL_S
    assert {b[0] - a[0] for a, b in itertools.pairwise(rows)} == {64.0}
    assert rows[-1][0] >= BEGAN + 5000 - 64, "to its end"
    assert rows[0][0] <= BEGAN + 64, "from its beginning"


def test_the_next_master_goes_on_with_the_rows_of_the_one_before(tmp_path):
    first = Journal(tmp_path)
    history = History(first, most_rows=100)
    fill(history, 0, 250)
    kept = history.rows()
    first.close()
    second = Journal(tmp_path)
    history = History(second, most_rows=100)
    assert [list(row) for row in history.rows()] == [list(row) for row in kept]
    assert history.interval_s == 4
    assert not history.is_due(kept[-1][0])
    fill(history, 250, 254)
    assert history.rows(after=kept[-1][0])[0][0] == BEGAN + 252
    second.close()
    interval_s, rows = read_history(tmp_path)
    assert interval_s == 4
    assert [row[0] for row in rows] == [row[0] for row in history.rows()]


def test_a_row_waits_for_a_group_and_comes_with_it(tmp_path, journal):
    history = History(journal)
    fill(history, 0, 3)
    assert read_history(tmp_path)[1] == [], "a row is no reason to write to the disk"
    journal.append("job", {})
    assert len(read_history(tmp_path)[1]) == 3


def test_a_history_that_cannot_be_written_costs_no_entry(tmp_path, journal):
    history = History(journal)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE history")
    fill(history, 0, 3)
    journal.append("job", {"a": 1})
    assert [entry.body for entry in read_journal(tmp_path)] == [{"a": 1}]
    assert read_history(tmp_path) == (FIRST_INTERVAL_S, [])


def test_a_job_of_before_has_no_history(tmp_path):
    assert read_history(tmp_path / "nowhere") == (FIRST_INTERVAL_S, [])
