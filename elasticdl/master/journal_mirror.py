"""What outlives the pod that a journal is in: each group of its entries as a file or an object.

docs/decisions/kubernetes.md tells why, and what a master may believe of what it finds.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elasticdl.data.filesystems import FileSystem, file_system
from elasticdl.errors import JobError
from elasticdl.master.journal import FILE_NAME, Row, create_tables

logger = logging.getLogger(__name__)

FORMAT = 1
COMPACTED = 1000
"""So many groups of one master become one."""
CLOSE_S = 10.0
MOST_BYTES = 64 << 20
"""Entries beyond this are not compacted further: they have to fit into memory."""

_READ_AT_ONCE = 16
_LISTED_AGAIN = 5
_PAUSE_S = 0.2
_HISTORY_COLUMNS = 3
_NAME = re.compile(r"(\d{6,})-(?:(begun|after|history)|(\d{12,})-(\d{12,}))\.json")
_UNFINISHED = re.compile(r"\.(\d{6,})-.*\.tmp")


@dataclass(frozen=True, order=True)
class _Group:
    """Entries that one master put together, by their numbers."""

    first: int
    last: int
    incarnation: int

    @property
    def name(self) -> str:
        return f"{self.incarnation:06d}-{self.first:012d}-{self.last:012d}.json"


@dataclass
class _Listing:
    """What is there: of each kind the masters it is of, and all groups."""

    begun: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    history: set[int] = field(default_factory=set)
    groups: list[_Group] = field(default_factory=list)
    unfinished: list[tuple[int, str]] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """The highest incarnation of a master that there is anything of; 0 for none."""
        return max((*self.begun, *self.after, *(one.incarnation for one in self.groups)), default=0)


@dataclass(frozen=True)
class _Story:
    """What the masters wrote down, one after the other.

    incarnation: of the last one of them that may have told anybody of anything.
    """

    incarnation: int
    rows: list[Row]
    history: list[list[Any]]


_Lines = tuple[_Group, list[str]]


class _Changed(Exception):
    """What was listed is not all there, or not all listed: it was being compacted, or is lost."""


class JournalMirror:
    """The groups of one master, beside those of the masters before it.

    `put` and `close` are called by one thread.

    Args:
      root: directory or URI below which all masters of a job put theirs.
      incarnation: of this master; no other one, before or after it, has the same.

    Raises:
      UsageError: the root is a URI of no kind there is.
    """

    def __init__(self, root: str, incarnation: int) -> None:
        self.root = root
        self._incarnation = incarnation
        self._reader = _Reader(root)
        # Whoever waits for the journal asks again by itself, with what has come meanwhile.
        self._files, self._path = file_system(root, patience_s=0.0)
        self._journal: Path | None = None
        # Groups that are put and in no compacted one, with their lines; whatever was tried to put.
        self._recent: list[_Lines] = []
        self._tried: list[_Group] = []
        # Of the last compaction: what it did not come to.
        self._left: tuple[list[_Lines], list[_Group]] = [], []
        self._compacting: threading.Thread | None = None

    # ------------------------------------------------------------------ the beginning

    def fetch(self, directory: str | Path) -> None:
        """Make the journal of a job in a directory, of what the masters before this one put.

        Nothing that one of them puts later will ever be read; so this one has to be sure that
        they tell nobody anything any more.

        Raises:
          JobError: something is missing or damaged, or another master is, or was, this one.
          OSError: it cannot be read, or written.
        """
        reader = self._reader
        newest = reader.listing().newest
        if newest >= self._incarnation:
            raise JobError(
                f"journal '{self.root}': master {newest} has begun; this one, "
                f"{self._incarnation}, has to be a later one"
            )
        # This also has a network file system's client read the directory again.
        writer = secrets.token_hex(8)
        reader.put(self._name("begun"), _to_bytes({"writer": writer}))
        story = reader.read(self._incarnation)
        found = reader.listing()
        if (
            reader.json(self._name("begun")).get("writer") != writer
            or self._incarnation in found.after
        ):
            raise JobError(f"journal '{self.root}': another master {self._incarnation} has begun")
        last = story.rows[-1][0] if story.rows else 0
        after = {"incarnation": story.incarnation, "number": last}
        reader.put(self._name("after"), _to_bytes(after))
        for of, name in found.unfinished:
            if of < self._incarnation:
                reader.delete(name)
        self._journal = Path(directory) / FILE_NAME
        _write(self._journal, story)

    # ------------------------------------------------------------------ the groups

    def put(self, rows: Sequence[Row]) -> None:
        """Put entries that follow those that were put before; they may be there already, in part.

        Raises:
          OSError: they are not there, or that cannot be known. They have to come again, with the
            same numbers, and maybe more after them.
        """
        group = _Group(rows[0][0], rows[-1][0], self._incarnation)
        lines = [_line(row) for row in rows]
        self._tried.append(group)
        self._files.put(f"{self._path}/{group.name}", _of_lines(lines))
        # What was put and not committed came again in this one.
        while self._recent and self._recent[-1][0].first >= group.first:
            self._recent.pop()
        self._recent.append((group, lines))
        if len(self._recent) > COMPACTED:
            self._compact()

    def _compact(self) -> None:
        if self._compacting is not None and self._compacting.is_alive():
            return
        # The newest stays: a list that is made meanwhile must show that there is more than it has.
        old, self._recent = self._left[0] + self._recent[:-1], self._recent[-1:]
        tried = self._left[1] + [one for one in self._tried if one.last <= old[-1][0].last]
        self._tried = [one for one in self._tried if one.last > old[-1][0].last]
        self._left = old, tried
        self._compacting = threading.Thread(
            target=self._put_compacted, name="journal compaction", daemon=True
        )
        try:
            self._compacting.start()
        except RuntimeError as error:  # No further thread; the next one makes up for it.
            self._compacting = None
            logger.warning("journal '%s' could not be compacted: %s", self.root, error)

    def _put_compacted(self) -> None:
        """Put some groups as one, and then remove them; what fails is tried again with the next."""
        old, tried = self._left
        group = _Group(old[0][0].first, old[-1][0].last, self._incarnation)
        lines = [line for _, some in old for line in some]
        try:
            if sum(map(len, lines)) <= MOST_BYTES:
                self._files.put(f"{self._path}/{group.name}", _of_lines(lines))
            else:
                tried = []
            self._left = [], tried
            for one in tried:
                if one != group:
                    self._files.delete(f"{self._path}/{one.name}")
            self._left = [], []
            self._put_history()
        except OSError as error:  # All of it is there all the same.
            logger.warning("journal '%s' could not be compacted: %s", self.root, _said(error))

    def _put_history(self) -> None:
        if self._journal is not None:
            history = _read_history(self._journal)
            self._files.put(f"{self._path}/{self._name('history')}", _to_bytes({"rows": history}))

    def close(self) -> None:
        """Put the table `history`; nothing more is put afterwards."""
        if self._compacting is not None:
            self._compacting.join(CLOSE_S)
        try:
            self._put_history()
        except OSError as error:
            logger.warning("journal '%s': no history: %s", self.root, _said(error))

    def _name(self, kind: str) -> str:
        return f"{self._incarnation:06d}-{kind}.json"


# ------------------------------------------------------------------------------ reading


def root_of(job_dir: str) -> str:
    """Where the mirror of a job is, by the job's directory or URI."""
    return f"{job_dir.rstrip('/')}/journal"


def last_master(root: str) -> int:
    """Incarnation of the newest master that has begun to read or write what is mirrored; 0: none.

    Raises:
      OSError: it cannot be read.
    """
    return _Reader(root).listing().newest


def copy_journal(root: str, directory: str | Path) -> bool:
    """Make the journal that is mirrored, as it is now, in a directory; False where there is none.

    Raises:
      JobError: something is missing or damaged.
      OSError: it cannot be read.
    """
    story = _Reader(root).read()
    if story.rows:
        _write(Path(directory) / FILE_NAME, story)
    return bool(story.rows)


class _Reader:
    """Reads what all masters put; errors name the root."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: FileSystem
        self._files, self._path = file_system(root)

    def put(self, name: str, data: bytes) -> None:
        self._files.put(f"{self._path}/{name}", data)

    def delete(self, name: str) -> None:
        self._files.delete(f"{self._path}/{name}")

    def listing(self) -> _Listing:
        found = _Listing()
        for one in self._files.files(self._path):
            name = one.path.rpartition("/")[2]
            if match := _NAME.fullmatch(name):
                incarnation, kind, first, last = match.groups()
                if kind is not None:
                    getattr(found, kind).add(int(incarnation))
                else:
                    found.groups.append(_Group(int(first), int(last), int(incarnation)))
            elif match := _UNFINISHED.fullmatch(name):
                found.unfinished.append((int(match[1]), name))
        return found

    def read(self, before: int | None = None) -> _Story:
        """Read what all masters put, or those before one."""
        for _ in range(_LISTED_AGAIN):
            try:
                return self._read(self.listing(), before)
            except _Changed as error:
                problem = str(error)
            time.sleep(_PAUSE_S)  # A former master may be compacting.
        raise JobError(f"journal '{self._root}': {problem}")

    def _read(self, found: _Listing, before: int | None) -> _Story:
        heads = [one for one in found.after if before is None or one < before]
        head = max(heads, default=0)
        orphans = [
            one.incarnation
            for one in found.groups
            if one.incarnation > head and (before is None or one.incarnation < before)
        ]
        if orphans:
            raise _Changed(f"where master {min(orphans)} went on from is missing")
        wanted: list[tuple[_Group, int, int]] = []
        chain = []
        incarnation, upto = head, None
        while incarnation:
            if incarnation not in found.after:
                raise _Changed(f"where master {incarnation} went on from is missing")
            chain.append(incarnation)
            of, number = self._after(incarnation)
            groups = [one for one in found.groups if one.incarnation == incarnation]
            end = upto if upto is not None else max([number, *(one.last for one in groups)])
            if not of < incarnation or not 0 <= number <= end or (number and not of):
                raise JobError(f"journal '{self._root}': master {incarnation} went on from "
                               f"entry {number} of master {of}, which cannot be")  # fmt: skip
            wanted[:0] = _cover(groups, incarnation, number + 1, end)
            incarnation, upto = of, number
        with ThreadPoolExecutor(_READ_AT_ONCE, "journal") as pool:
            parts = list(pool.map(lambda one: self._rows(*one), wanted))
        newest = next((one for one in chain if one in found.history), None)
        history = [] if newest is None else self._history(newest)
        return _Story(head, [row for part in parts for row in part], history)

    def _history(self, incarnation: int) -> list[list[Any]]:
        name = f"{incarnation:06d}-history.json"
        rows = self.json(name).get("rows")
        if not isinstance(rows, list) or any(len(row) != _HISTORY_COLUMNS for row in rows):
            raise self._damaged(name)
        return rows

    def _after(self, incarnation: int) -> tuple[int, int]:
        name = f"{incarnation:06d}-after.json"
        content = self.json(name)
        try:
            return int(content["incarnation"]), int(content["number"])
        except (KeyError, TypeError, ValueError):
            raise self._damaged(name) from None

    def _rows(self, group: _Group, first: int, last: int) -> list[Row]:
        content = self.json(group.name)
        try:
            rows = [
                (number, at, kind, _json(body)) for number, at, kind, body in content["entries"]
            ]
        except (KeyError, TypeError, ValueError):
            raise self._damaged(group.name) from None
        if [row[0] for row in rows] != list(range(group.first, group.last + 1)):
            raise self._damaged(group.name)
        return rows[first - group.first : last - group.first + 1]

    def json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self._files.read(f"{self._path}/{name}"))
        except FileNotFoundError:
            raise _Changed(f"{name} is missing") from None
        except ValueError:
            raise self._damaged(name) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> JobError:
        return JobError(f"journal '{self._root}': {name} is damaged")


def _cover(
    groups: Iterable[_Group], incarnation: int, first: int, last: int
) -> list[tuple[_Group, int, int]]:
    """Choose the fewest groups that have all entries from `first` to `last`, and of each what."""
    chosen: list[tuple[_Group, int, int]] = []
    while first <= last:
        fitting = [one for one in groups if one.first <= first <= one.last]
        if not fitting:
            later = min((one.first for one in groups if one.first > first), default=last + 1)
            raise _Changed(
                f"entries {first} to {min(later - 1, last)} of master {incarnation} are missing, "
                "and later ones are there"
            )
        best = max(fitting, key=lambda one: one.last)
        chosen.append((best, first, min(best.last, last)))
        first = best.last + 1
    return chosen


# ------------------------------------------------------------------------------ as text

_json = json.JSONEncoder(separators=(",", ":")).encode


def _line(row: Row) -> str:
    number, at, kind, body = row
    return f"[{number},{_json(at)},{_json(kind)},{body}]"


def _of_lines(lines: Sequence[str]) -> bytes:
    entries = ",\n".join(lines)
    return f'{{"format":{FORMAT},"entries":[\n{entries}\n]}}\n'.encode()


def _to_bytes(content: dict[str, Any]) -> bytes:
    return (_json({"format": FORMAT, **content}) + "\n").encode()


def _said(error: OSError) -> str:
    return error.strerror or str(error)


# ------------------------------------------------------------------------------ the file


def _write(path: Path, story: _Story) -> None:
    """Make the file of a journal; one that is there is replaced, which knew nothing more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            create_tables(db)
            db.execute("BEGIN")
            db.executemany(
                "INSERT INTO entries (number, time, kind, body) VALUES (?,?,?,?)", story.rows
            )
            db.executemany(
                "INSERT INTO history (number, interval_s, body) VALUES (?,?,?)", story.history
            )
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise JobError(f"journal {path}: {error}") from None


def _read_history(path: Path) -> list[list[Any]]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT number, interval_s, body FROM history").fetchall()
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from None
    return [list(row) for row in found]
