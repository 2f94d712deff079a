"""A job's history: rows of numbers over time, never many, kept in the journal's file.

A row is written with the group of entries that is committed next; nobody waits for it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elasticdl.master.journal import FILE_NAME, Journal

COLUMNS = (
    "at",
    "epoch",
    "records_done",
    "records_per_s",
    "loss",
    "learning_rate",
    "workers",
    "ps",
    "cpu",
    "memory_bytes",
)
FIRST_INTERVAL_S = 1.0
MOST_ROWS = 2000

Row = Sequence[Any]
"""Values by `COLUMNS`; None where one is not known."""


class History:
    """The rows of one job. Thread-safe.

    A row stands for its interval. Where there would be more rows than `most_rows`, every other one
    is dropped and the interval is twice as long from then on.

    Args:
      journal: has what masters before kept, and keeps it.
      most_rows: to be kept.
    """

    def __init__(self, journal: Journal, most_rows: int = MOST_ROWS) -> None:
        self._journal = journal
        self._most_rows = most_rows
        self._lock = threading.Lock()
        self._interval_s, rows = _read(journal.path)
        # By the number of the first interval (`FIRST_INTERVAL_S`) that the row stands for.
        self._rows: dict[int, Row] = dict(rows)

    @property
    def interval_s(self) -> float:
        """How far two rows are apart."""
        with self._lock:
            return self._interval_s

    def is_due(self, at: float) -> bool:
        """Whether there is no row so far for this time, in seconds since 1970."""
        with self._lock:
            return self._number(at) not in self._rows

    def _number(self, at: float) -> int:
        step = round(self._interval_s / FIRST_INTERVAL_S)
        return int(at / FIRST_INTERVAL_S) // step * step

    def add(self, row: Row) -> None:
        """Add the row of now, whose first value is the time; of an interval the first one stays."""
        with self._lock:
            number = self._number(row[0])
            if number in self._rows:
                return
            self._rows[number] = row
            while len(self._rows) > self._most_rows:
                self._thin()
            if number in self._rows:
                self._journal.keep(
                    "INSERT OR REPLACE INTO history (number, interval_s, body) VALUES (?, ?, ?)",
                    (number, self._interval_s, json.dumps(list(row))),
                )

    def _thin(self) -> None:
        self._interval_s *= 2
        step = round(self._interval_s / FIRST_INTERVAL_S)
        self._rows = {number: row for number, row in self._rows.items() if number % step == 0}
        self._journal.keep("DELETE FROM history WHERE number % ? <> 0", (step,))
        self._journal.keep("UPDATE history SET interval_s = ?", (self._interval_s,))

    def rows(self, after: float = 0.0) -> list[Row]:
        """Return the rows after a time, oldest first."""
        with self._lock:
            return [row for row in self._rows.values() if row[0] > after]


def read_history(job_dir: str | Path) -> tuple[float, list[Row]]:
    """Return the interval and the rows that a job's journal has; none where it has none."""
    interval_s, rows = _read(Path(job_dir) / FILE_NAME)
    return interval_s, [row for _, row in rows]


def _read(path: Path) -> tuple[float, list[tuple[int, Row]]]:
    if not path.exists():
        return FIRST_INTERVAL_S, []
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT number, interval_s, body FROM history ORDER BY number"
        found = db.execute(query).fetchall()
    except sqlite3.Error:  # Of a version of this package that kept none.
        return FIRST_INTERVAL_S, []
    finally:
        db.close()
    interval_s = max((one for _, one, _ in found), default=FIRST_INTERVAL_S)
    return interval_s, [(number, json.loads(body)) for number, _, body in found]
