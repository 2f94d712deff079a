"""The journal's mirror against a model: masters that die, linger and meet, on a store that is slow.

What a master told somebody, or went on from, every later master must read, with the same numbers;
whatever was lost, raised and is there all the same, comes late, or is half compacted.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elasticdl.data.filesystems import FileInfo
from elasticdl.errors import JobError
from elasticdl.master import journal_mirror
from elasticdl.master.journal import Row
from elasticdl.master.journal_mirror import JournalMirror

SCHEDULES = 200
ROOT = "s3://bucket/job/journal"


class Died(BaseException):
    """This master is killed."""


class Store:
    """Objects; between any two looks at it, others may change it."""

    def __init__(self, chance: random.Random) -> None:
        self.objects: dict[str, bytes] = {}
        self.chance = chance
        self.meanwhile: Callable[[], None] = lambda: None

    def look(self) -> None:
        if self.chance.random() < 0.3:
            self.meanwhile()


class Connection:
    """One master's way to the store. What it writes may be lost, or come later, in order."""

    def __init__(self, store: Store, master: Master | None) -> None:
        self._store = store
        self._master = master

    def files(self, directory: str) -> list[FileInfo]:
        seen: dict[str, None] = {}
        self._live()
        for path in sorted(self._store.objects):
            self._store.look()
            if path in self._store.objects:
                seen[path] = None
        # What came meanwhile may or may not be listed.
        for path in sorted(self._store.objects):
            if self._store.chance.random() < 0.5:
                seen[path] = None
        return [FileInfo(path, 0, 0) for path in seen]

    def read(self, path: str) -> bytes:
        self._live()
        self._store.look()
        if path not in self._store.objects:
            raise FileNotFoundError(path)
        return self._store.objects[path]

    def put(self, path: str, data: bytes) -> None:
        self._write(path, data)

    def delete(self, path: str) -> None:
        self._write(path, None)

    def _live(self) -> None:
        if self._master is not None and self._master.is_dead:
            raise Died

    def _write(self, path: str, data: bytes | None) -> None:
        self._live()
        self._store.look()
        master, chance = self._master, self._store.chance
        assert master is not None
        if master.compacts:
            if chance.random() < 0.02:
                raise OSError("the store is away")
            master.later.append((path, data))
            return
        fate = chance.random()
        if fate < 0.03:
            raise OSError("the store is away")
        if fate < 0.06:
            master.late.append((path, data))
            raise OSError("no answer: it comes later, or never")
        if fate < 0.08:
            master.is_dead = True
            raise Died
        _apply(self._store, (path, data))
        if fate < 0.11:
            raise OSError("no answer, and it is there")
        if fate < 0.13:
            master.is_dead = True
            raise Died


def _apply(store: Store, written: tuple[str, bytes | None]) -> None:
    path, data = written
    if data is None:
        store.objects.pop(path, None)
    else:
        store.objects[path] = data


class Master:
    """One master: what it believes, and what of it is still under way."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.is_dead = False
        self.compacts = False
        self.is_ready = False
        self.held = 0
        # What its compaction does, step by step; what it put and heard nothing of.
        self.later: deque[tuple[str, bytes | None]] = deque()
        self.late: list[tuple[str, bytes | None]] = []
        self.mirror: JournalMirror
        self.last = 0
        self.waiting: list[Row] = []


class Compaction:
    """In place of a thread: its writes are noted at once, and done one by one, meanwhile."""

    def __init__(self, master: Master, target: Callable[[], None]) -> None:
        self._master = master
        self._target = target

    def start(self) -> None:
        self._master.compacts = True
        self._target()
        self._master.compacts = False

    def is_alive(self) -> bool:
        return bool(self._master.later)


class OneByOne(Executor):
    """In place of a pool: one schedule is one order of everything."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*given, **named))
        return done


class Job:
    """All masters of one job. `truth` is what somebody relies on."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        self.store = Store(self.chance)
        self.store.meanwhile = self.meanwhile
        self.masters: list[Master] = []
        self.truth: list[Row] = []
        self.fetched = 0
        self.compacted = 0
        self._acting: list[Master] = []
        self._ids = itertools.count()
        monkeypatch.setattr(journal_mirror, "COMPACTED", 3)
        monkeypatch.setattr(journal_mirror, "_PAUSE_S", 0.0)
        monkeypatch.setattr(journal_mirror, "_write", self._read_by)
        monkeypatch.setattr(journal_mirror, "_read_history", lambda path: [])
        monkeypatch.setattr(journal_mirror, "file_system", self._connect)
        monkeypatch.setattr(journal_mirror, "threading", SimpleNamespace(Thread=self._thread))
        monkeypatch.setattr(journal_mirror, "ThreadPoolExecutor", OneByOne)

    # what the mirror's module finds instead of a store, a thread, a file

    def _connect(self, root: str, patience_s: float | None = None) -> tuple[Connection, str]:
        return Connection(self.store, self._acting[-1] if self._acting else None), root

    def _thread(self, target: Callable[[], None], **_: object) -> Compaction:
        self.compacted += 1
        return Compaction(self._acting[-1], target)

    def _read_by(self, path: Path, story: journal_mirror._Story) -> None:
        master = self._acting[-1]
        if master is self.masters[-1]:  # Who is not sure any more tells nobody what it read.
            self.check(story.rows)
            self.truth = list(story.rows)
        master.last = story.rows[-1][0] if story.rows else 0
        master.is_ready = True
        self.fetched += 1

    def check(self, rows: list[Row]) -> None:
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        assert rows[: len(self.truth)] == self.truth

    # what happens

    def meanwhile(self) -> None:
        """Something of others, while one master waits for the store."""
        for one in self.masters:
            one.held -= 1
        busy = [one for one in self.masters if one.held <= 0 and (one.later or one.late)]
        if busy and self.chance.random() < 0.9:
            one = self.chance.choice(busy)
            for _ in range(self.chance.choice((1, 2, 20))):
                self._land(one)
        elif len(self._acting) < 3 and self.chance.random() < 0.02:
            self.start()

    def _land(self, master: Master) -> None:
        if master.late and (not master.later or self.chance.random() < 0.3):
            _apply(self.store, master.late.pop(self.chance.randrange(len(master.late))))
        elif master.later:
            _apply(self.store, master.later.popleft())
            if master.is_dead and self.chance.random() < 0.1:
                master.later.clear()

    def start(self) -> None:
        """A master takes the claim: from now on no other one tells anybody anything."""
        for one in self.masters[-1:]:
            if self.chance.random() < 0.7:  # Its machine stands still for a while.
                one.held = self.chance.randrange(60)
        master = Master(len(self.masters) + 1)
        self.masters.append(master)

        def begin() -> None:
            master.mirror = JournalMirror(ROOT, master.incarnation)
            master.mirror.fetch("unused")

        self._act(master, begin)

    def _act(self, master: Master, act: Callable[[], None]) -> None:
        self._acting.append(master)
        try:
            act()
        except Died:
            pass
        except OSError:
            master.is_dead = master.is_dead or not master.is_ready  # It is started again.
        except JobError:
            assert master is not self.masters[-1], "who has the claim must find all it needs"
            master.is_dead = True
        finally:
            self._acting.pop()

    def write(self, master: Master) -> None:
        """A master puts a group, with what could not be put before, and tells of it if it may."""
        for _ in range(self.chance.randrange(1, 4)):
            master.last += 1
            body = f'{{"id":{next(self._ids)}}}'
            master.waiting.append((master.last, 0.5, "x", body))

        def put() -> None:
            master.mirror.put(master.waiting)
            if self.chance.random() < 0.05:
                return  # The disk is full: they come again.
            if master is self.masters[-1]:
                self.truth += master.waiting
            master.waiting = []

        self._act(master, put)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            living = [one for one in self.masters if one.is_ready and not one.is_dead]
            newest = living[-1] if living and living[-1] is self.masters[-1] else None
            if newest is None or self.chance.random() < (0.3 if newest.later else 0.03):
                self.start()
            elif self.chance.random() < 0.85:
                self.write(living[-1])
            else:
                # One that was replaced and has not heard of it: it puts one group, and waits.
                one = self.chance.choice(living)
                if one is living[-1] or not one.waiting:
                    self.write(one)
        while not (self.masters[-1].is_ready and not self.masters[-1].is_dead):
            self.start()


@pytest.fixture
def job_of(monkeypatch) -> Callable[[int], Job]:
    return lambda seed: Job(seed, monkeypatch)


def test_whatever_was_told_is_read_by_every_later_master(job_of):
    fetched = compacted = 0
    for seed in range(SCHEDULES):
        job = job_of(seed)
        try:
            job.run(40)
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        fetched += job.fetched
        compacted += job.compacted
    assert fetched > 3 * SCHEDULES
    assert compacted > SCHEDULES
