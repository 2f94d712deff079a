"""The journal: a job's story in one SQLite file, in the order it happened.

Entries are committed in groups, by a thread of the journal's own; who must not go on before his are
on disk waits for them, or is told (R5).
"""

from __future__ import annotations

import itertools
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from elasticdl.errors import JobError
from elasticdl.master.file_lock import own_file
from elasticdl.phases import PHASES, Phase

logger = logging.getLogger(__name__)

FILE_NAME = "journal.sqlite"
LOCK_NAME = "journal.lock"
LOCK_S = 10.0

Told = Callable[[JobError | None], None]
"""What is called once entries are on disk, or with why they are not. It must not wait."""

GROUP_S = 0.004
"""How long a group is waited for after the one before, where no thread waits for its entries."""

PATIENCE_S = 600.0
"""For how long a mirror may fail before the journal is one that cannot be written."""
CLOSE_S = 10.0
"""The same, once the journal is closed."""
LEAVE_S = 10.0
"""For how long, after that, the last group is waited for."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
TOLD_S = 30.0

Row = tuple[int, float, str, str]
"""An entry as it is kept: number, time, kind, body as text."""
_Statement = tuple[str, tuple[Any, ...]]

_MOST_ROWS = 200  # SQLite before 3.32 takes 999 values a statement.
_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Entry:
    """One line of the story: `time` in seconds since the epoch, `body` as JSON has it."""

    number: int
    time: float
    kind: str
    body: dict[str, Any]


class Mirror(Protocol):
    """What outlives the disk that the journal is on (`journal_mirror.JournalMirror`)."""

    def put(self, rows: Sequence[Row]) -> None:
        """Put entries; OSError: they are not there, or that is not known, and come again."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Journal:
    """The journal being written, by one process at a time. Thread-safe.

    Args:
      job_dir: the job's directory; the file is made if it is not there.
      mirror: has each group of entries before this file does; the file need not outlive this
        machine then. While it fails, who waits for entries goes on waiting, for `PATIENCE_S`.
      wait_until_sure: asked when a group is on disk and before anybody is told: it returns once
        this is the job's one master.

    Raises:
      JobError: it cannot be opened or written, or another process writes it.
    """

    def __init__(
        self,
        job_dir: str | Path,
        *,
        mirror: Mirror | None = None,
        wait_until_sure: Callable[[], None] = lambda: None,
    ) -> None:
        self._wait_until_sure = wait_until_sure
        self.path = Path(job_dir) / FILE_NAME
        self._mirror = mirror
        # Since when the mirror fails, and when the journal was closed, by `time.monotonic`.
        self._fails_since: float | None = None
        self._closed_at = 0.0
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        # What the committer waits for: something to do, or somebody in a hurry.
        self._work = threading.Condition(lock)
        self._num_blocked = 0
        # Entries that are not committed, in order, and the number of the newest that is.
        self._waiting: list[Row] = []
        # Statements that are carried out with the next group, and that nobody waits for.
        self._kept: list[_Statement] = []
        self._error: Exception | None = None
        # Who is to be told once an entry is committed.
        self._listeners: list[tuple[int, Told]] = []
        self._closed = False
        self._is_over = False  # Nothing more will be committed.
        owned = own_file(Path(job_dir) / LOCK_NAME, LOCK_S)
        if owned is None:
            raise JobError(f"journal {self.path}: another master of this job runs; a job has one")
        self._owned = owned
        try:
            self._db = sqlite3.connect(
                self.path,
                check_same_thread=False,
                isolation_level=None,
                cached_statements=_MOST_ROWS,
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if mirror is None else 'OFF'}")
            create_tables(self._db)
            (last,) = self._db.execute("SELECT MAX(number) FROM entries").fetchone()
        except sqlite3.Error as error:
            self._owned.close()
            raise JobError(f"journal {self.path}: {error}") from None
        self._number: int = last or 0
        self._committed = self._number
        self._committer = threading.Thread(target=self._commit_groups, name="journal", daemon=True)
        self._committer.start()

    @property
    def last_number(self) -> int:
        """Number of the newest entry, committed or not; 0 for none."""
        return self._number

    @property
    def told_number(self) -> int:
        """Number of the newest entry that others may know of; 0 for none."""
        with self._changed:
            return self._committed

    def entries(self) -> Iterator[Entry]:
        """Yield those that are on disk, in order."""
        return read_journal(self.path.parent)

    def append(self, kind: str, body: dict[str, Any]) -> None:
        """Add an entry and wait until it is on disk.

        Raises:
          JobError: it cannot be written.
        """
        self.wait_for(self.write([(kind, body)]))

    def write(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> int:
        """Add entries, of which all or none will be on disk, soon; return the last one's number."""
        texts = [(kind, _json(body)) for kind, body in entries]
        at = time.time()
        with self._changed:
            if not self._waiting or self._error is not None:
                self._work.notify()
            for kind, text in texts:
                self._number += 1
                self._waiting.append((self._number, at, kind, text))
            self._error = None  # What could not be written is tried again with these.
            return self._number

    def wait_for(self, number: int) -> None:
        """Return once this entry, and all before it, are on disk.

        Raises:
          JobError: they cannot be written; nothing may be granted then. They are tried again with
            what comes later, in order: the journal never lacks anything but its end.
        """
        with self._changed:
            if self._committed < number:
                self._num_blocked += 1
                self._work.notify()
                try:
                    self._changed.wait_for(
                        lambda: self._committed >= number or self._error or self._is_over
                    )
                finally:
                    self._num_blocked -= 1
            if self._committed < number:
                raise self._failure()

    def when_on_disk(self, number: int, told: Told) -> None:
        """Do as `wait_for`, but return at once: tell when it is over, in any thread.

        The entries may wait a little for others, to be written with them.
        """
        with self._changed:
            is_on_disk = self._committed >= number
            if not is_on_disk and self._error is None and not self._is_over:
                self._listeners.append((number, told))
                return
            failure = None if is_on_disk else self._failure()
        told(failure)

    def _failure(self) -> JobError:
        return JobError(f"journal {self.path}: {self._error or 'closed'}")

    def _tell(self) -> None:
        """Tell whose entries are on disk, or everybody that nothing more will be."""
        with self._changed:
            failure = self._failure() if self._error is not None or self._is_over else None
            listeners, self._listeners = self._listeners, []
            over: list[tuple[Told, JobError | None]] = []
            for number, told in listeners:
                if number <= self._committed:
                    over.append((told, None))
                elif failure is not None:
                    over.append((told, failure))
                else:
                    self._listeners.append((number, told))
        for told, outcome in over:
            try:
                told(outcome)
            except Exception:  # It is theirs; others wait for this thread.
                logger.exception("whoever waited for the journal could not be told")

    def _next_group(self, last_s: float) -> tuple[list[Row], list[_Statement]]:
        """Wait for what is to be committed next; nothing: the journal is closed.

        Args:
          last_s: when the last group was begun, by `time.monotonic`.
        """
        with self._changed:
            self._work.wait_for(lambda: (self._waiting and self._error is None) or self._closed)
            pause_s = last_s + GROUP_S - time.monotonic()
            if pause_s > 0:
                self._work.wait_for(lambda: self._num_blocked or self._closed, pause_s)
            if self._error is not None:
                return [], []
            kept, self._kept = self._kept, []
            return list(self._waiting), kept

    def keep(self, statement: str, values: tuple[Any, ...]) -> None:
        """Change the table `history` with the next group; if that cannot be, nothing is said."""
        with self._changed:
            self._kept.append((statement, values))

    def _commit_groups(self) -> None:
        began_s = 0.0
        while (following := self._next_group(began_s)) != ([], []):
            group, kept = following
            began_s = time.monotonic()
            try:
                with PHASES.measure(Phase.JOURNAL):
                    group = self._put(group)
                    self._commit_with(group, kept)
            except Exception as error:  # Whatever it is: without this thread all would wait.
                is_known = isinstance(error, sqlite3.Error | OSError)
                logger.error("journal %s: %s", self.path, error, exc_info=not is_known)
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                self._tell()
                continue
            self._wait_until_sure()
            with self._changed:
                del self._waiting[: len(group)]
                self._committed = group[-1][0] if group else self._committed
                self._changed.notify_all()
            self._tell()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._tell()

    def _put(self, group: list[Row]) -> list[Row]:
        """Put a group into the mirror, again while that fails, with what has come meanwhile.

        Returns:
          What was put.

        Raises:
          OSError: it has failed for too long.
        """
        if self._mirror is None or not group:
            return group
        pause_s, told_at = FIRST_PAUSE_S, float("-inf")
        while True:
            try:
                self._mirror.put(group)
                self._fails_since = None
                return group
            except OSError as error:
                now = time.monotonic()
                since = self._fails_since = self._fails_since or now
                if now > told_at + TOLD_S:
                    told_at = now
                    logger.error("journal %s: %s; tried again", self.path, error)
                with self._changed:
                    deadline = since + PATIENCE_S
                    if self._closed:
                        deadline = min(deadline, self._closed_at + CLOSE_S)
                if now >= deadline:
                    raise
            time.sleep(min(pause_s, max(0.0, deadline - now)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with self._changed:
                group = list(self._waiting)

    def _commit_with(
        self,
        group: Sequence[Row],
        kept: Sequence[_Statement],
    ) -> None:
        """Commit a group with what is kept beside it, or without if that cannot be."""
        try:
            self._commit(group, kept)
        except sqlite3.Error:
            if not (group and kept):
                raise
            self._commit(group, ())

    def _commit(
        self,
        group: Sequence[Row],
        kept: Sequence[_Statement],
    ) -> None:
        if self._db.in_transaction:  # The last one could not even be rolled back.
            self._db.execute("ROLLBACK")
        # One statement is one transaction, and lets other threads go on while it waits for the
        # disk; between two statements it would wait for them.
        if len(group) <= _MOST_ROWS and not kept:
            self._insert(group)
            return
        try:
            self._db.execute("BEGIN")
            for statement, values in kept:
                self._db.execute(statement, values)
            for first in range(0, len(group), _MOST_ROWS):
                self._insert(group[first : first + _MOST_ROWS])
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert(self, rows: Sequence[Row]) -> None:
        places = ",".join(["(?,?,?,?)"] * len(rows))
        self._db.execute(
            f"INSERT INTO entries (number, time, kind, body) VALUES {places}",
            list(itertools.chain.from_iterable(rows)),
        )

    def close(self) -> None:
        """Commit what is left, if that is possible, and close the file."""
        with self._changed:
            self._closed = True
            self._closed_at = time.monotonic()
            self._work.notify()
        self._committer.join(CLOSE_S + LEAVE_S)
        if self._committer.is_alive():  # The mirror is silent, or this is not the one master.
            self._leave()
            return
        if self._mirror is not None and self._fails_since is None:
            self._mirror.close()
        self._db.close()
        self._owned.close()

    def _leave(self) -> None:
        """Leave the committer to what it waits for; the file stays open as long as it does."""
        logger.error("journal %s: it is left as its last entries are not told", self.path)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._tell()


def create_tables(db: sqlite3.Connection) -> None:
    """Make a journal's tables, where they are not there."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS entries ("
        "number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL, kind TEXT, body TEXT)"
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS history ("
        "number INTEGER PRIMARY KEY, interval_s REAL, body TEXT)"
    )


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


def read_journal(
    job_dir: str | Path, kind: str | Sequence[str] | None = None, after: int = 0
) -> Iterator[Entry]:
    """Yield a job's entries in order, of one kind, some or all, also while it runs.

    Args:
      after: only those with a higher number.

    Raises:
      JobError: there is no journal, or it cannot be read.
    """
    path = Path(job_dir) / FILE_NAME
    if not path.exists():
        raise JobError(f"job directory '{job_dir}': no {FILE_NAME} in it; is it a job's directory?")
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise JobError(f"journal {path}: {error}") from None
    try:
        query = "SELECT number, time, kind, body FROM entries WHERE number > ?"
        values: list[object] = [after]
        if kind is not None:
            kinds = [kind] if isinstance(kind, str) else list(kind)
            query += f" AND kind IN ({', '.join('?' * len(kinds))})"
            values += kinds
        for number, at, name, body in db.execute(f"{query} ORDER BY number", values):
            yield Entry(number, at, name, json.loads(body))
    except (sqlite3.Error, ValueError) as error:
        raise JobError(f"journal {path}: {error}") from None
    finally:
        db.close()
