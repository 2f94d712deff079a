"""A copy of a job's journal elsewhere, which gains what the journal gains."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elasticdl.master.history import FIRST_INTERVAL_S
from elasticdl.master.journal import FILE_NAME, create_tables
from elasticdl.proto import master_pb2

PIECE_BYTES = 1 << 20


def piece_of(
    path: Path, request: master_pb2.FetchJournalRequest, last: int
) -> master_pb2.FetchJournalReply:
    """Read what a copy of a journal lacks, as much as fits into one message.

    Args:
      path: of the journal's file.
      last: number of the last entry that anybody may know of.

    Raises:
      sqlite3.Error: it cannot be read.
    """
    with _opened(path, "ro") as db:
        name = _name_of(db)
        after_entry, after_row = request.after_entry, request.after_row
        if name != request.journal:
            after_entry = after_row = 0
        reply = master_pb2.FetchJournalReply(journal=name)
        size = 0
        found = db.execute(
            "SELECT number, time, kind, body FROM entries WHERE number > ? AND number <= ? "
            "ORDER BY number",
            (after_entry, last),
        )
        for number, at, kind, body in found:
            reply.entries.add(number=number, time=at, kind=kind, body=body)
            size += len(body)
            if size >= PIECE_BYTES:
                return reply
        # Never many: see `history`.
        rows = "SELECT number, body FROM history WHERE number > ? ORDER BY number"
        for number, body in db.execute(rows, (after_row,)):
            reply.rows.add(number=number, body=body)
        (interval_s,) = db.execute("SELECT MAX(interval_s) FROM history").fetchone()
        reply.interval_s = interval_s or 0.0
        reply.is_all = True
        return reply


class JournalCopy:
    """The copy of a journal in a directory. Processes may bring it up to date at the same time.

    Args:
      directory: is there; the file is made if it is not.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME

    def lacks(self) -> master_pb2.FetchJournalRequest:
        """What to ask for.

        Raises:
          sqlite3.Error: it cannot be read.
        """
        if not self._path.exists():
            return master_pb2.FetchJournalRequest()
        with _opened(self._path, "ro") as db:
            (entry,) = db.execute("SELECT MAX(number) FROM entries").fetchone()
            (row,) = db.execute("SELECT MAX(number) FROM history").fetchone()
            return master_pb2.FetchJournalRequest(
                journal=_name_of(db), after_entry=entry or 0, after_row=row or 0
            )

    def add(self, reply: master_pb2.FetchJournalReply) -> None:
        """Add what came; a copy of another journal is replaced.

        Raises:
          sqlite3.Error, OSError: it cannot be written.
        """
        if not reply.journal:
            return  # Nothing was written so far.
        if not self._path.exists() or self.lacks().journal != reply.journal:
            self._begin(reply)
            return
        with _opened(self._path, "rw") as db:
            _add(db, reply)

    def _begin(self, reply: master_pb2.FetchJournalReply) -> None:
        handle, unfinished = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=self._path.parent)
        os.close(handle)
        try:
            with _opened(Path(unfinished), "rw") as db:
                create_tables(db)
                _add(db, reply)
            os.replace(unfinished, self._path)
        except BaseException:
            os.unlink(unfinished)
            raise


def _add(db: sqlite3.Connection, reply: master_pb2.FetchJournalReply) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        "INSERT OR IGNORE INTO entries (number, time, kind, body) VALUES (?, ?, ?, ?)",
        [(one.number, one.time, one.kind, one.body) for one in reply.entries],
    )
    db.executemany(
        "INSERT OR REPLACE INTO history (number, interval_s, body) VALUES (?, ?, ?)",
        [(one.number, reply.interval_s, one.body) for one in reply.rows],
    )
    if reply.interval_s:  # It may have become coarser, as `History` does it.
        step = round(reply.interval_s / FIRST_INTERVAL_S)
        db.execute("DELETE FROM history WHERE number % ? <> 0", (step,))
        db.execute("UPDATE history SET interval_s = ?", (reply.interval_s,))
    db.execute("COMMIT")


def _name_of(db: sqlite3.Connection) -> str:
    """What tells a journal from another one of the job, which began anew."""
    first = db.execute("SELECT number, time FROM entries ORDER BY number LIMIT 1").fetchone()
    return "" if first is None else f"{first[0]}@{first[1]:.6f}"


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None)
    try:
        yield db
    finally:
        db.close()
