"""The journal: a job's story in one SQLite file, in the order it happened.

What must not be forgotten is synced before anything depends on it (R5); the rest is committed in
groups, a moment later.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError

logger = logging.getLogger(__name__)

FILE_NAME = "journal.sqlite"
GROUP_COMMIT_S = 0.1


@dataclass(frozen=True)
class Entry:
    """One line of the story: `time` in seconds since the epoch, `body` as JSON has it."""

    number: int
    time: float
    kind: str
    body: dict[str, Any]


class Journal:
    """The journal being written. Thread-safe.

    Args:
      job_dir: the job's directory; the file is made if it is not there.

    Raises:
      JobError: it cannot be opened or written.
    """

    def __init__(self, job_dir: str | Path) -> None:
        self.path = Path(job_dir) / FILE_NAME
        self._lock = threading.Lock()
        # Not committed so far, in order; the first `_inserted` are in the open transaction.
        self._waiting: list[tuple[int, float, str, str]] = []
        self._inserted = 0
        self._closed = threading.Event()
        try:
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS entries ("
                "number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL, kind TEXT, body TEXT)"
            )
            (last,) = self._db.execute("SELECT MAX(number) FROM entries").fetchone()
            self._number: int = last or 0
        except sqlite3.Error as error:
            raise JobError(f"journal {self.path}: {error}") from None
        self._committer = threading.Thread(target=self._commit_groups, name="journal", daemon=True)
        self._committer.start()

    @property
    def last_number(self) -> int:
        """Number of the newest entry; 0 for none."""
        with self._lock:
            return self._number

    def append(self, kind: str, body: dict[str, Any], durable: bool = False) -> None:
        """Add an entry; return once it is on disk if `durable`, else before.

        Raises:
          JobError: it cannot be written; nothing may be granted then.
        """
        self.write([(kind, body)], durable)

    def write(self, entries: Sequence[tuple[str, dict[str, Any]]], durable: bool = False) -> None:
        """Add entries that are on disk all or none; return as `append` does.

        Raises:
          JobError: they cannot be written. They are tried again with what comes later, in order:
            the journal never lacks anything but its end.
        """
        with self._lock:
            at = time.time()
            for kind, body in entries:
                self._number += 1
                text = json.dumps(body, separators=(",", ":"))
                self._waiting.append((self._number, at, kind, text))
            try:
                self._insert()
                if durable:
                    self._commit()
            except sqlite3.Error as error:
                self._undo()
                raise JobError(f"journal {self.path}: {error}") from None

    def _insert(self) -> None:
        if not self._db.in_transaction:
            self._inserted = 0
            self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO entries (number, time, kind, body) VALUES (?, ?, ?, ?)",
            self._waiting[self._inserted :],
        )
        self._inserted = len(self._waiting)

    def _commit(self) -> None:
        if self._waiting:
            self._insert()
            self._db.execute("COMMIT")
            self._waiting.clear()
            self._inserted = 0

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._inserted = 0

    def _commit_groups(self) -> None:
        while not self._closed.wait(GROUP_COMMIT_S):
            try:
                with self._lock:
                    self._commit()
            except sqlite3.Error as error:
                # Tried again; the next durable entry fails loudly if it cannot be written either.
                logger.error("journal %s: %s", self.path, error)
                with self._lock:
                    self._undo()

    def close(self) -> None:
        """Commit what is left, if that is possible, and close the file."""
        self._closed.set()
        self._committer.join()
        with self._lock:
            try:
                self._commit()
            except sqlite3.Error as error:
                logger.error("journal %s: %s", self.path, error)
            self._db.close()


def last_number(job_dir: str | Path, kind: str) -> int:
    """Number of a job's newest entry of a kind; 0 where there is none, or no journal."""
    path = Path(job_dir) / FILE_NAME
    if not path.exists():
        return 0
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT MAX(number) FROM entries WHERE kind = ?"
        return db.execute(query, (kind,)).fetchone()[0] or 0
    except sqlite3.Error:
        return 0
    finally:
        db.close()


def read_journal(job_dir: str | Path, kind: str | None = None) -> Iterator[Entry]:
    """Yield a job's entries in order, of one kind or all, also while it runs.

    Raises:
      JobError: there is no journal, or it cannot be read.
    """
    path = Path(job_dir) / FILE_NAME
    if not path.exists():
        raise JobError(f"job directory '{job_dir}': no {FILE_NAME} in it; is it a job's directory?")
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT number, time, kind, body FROM entries"
        rows = (
            db.execute(f"{query} ORDER BY number")
            if kind is None
            else db.execute(f"{query} WHERE kind = ? ORDER BY number", (kind,))
        )
        for number, at, name, body in rows:
            yield Entry(number, at, name, json.loads(body))
    except sqlite3.Error as error:
        raise JobError(f"journal {path}: {error}") from None
    finally:
        db.close()
