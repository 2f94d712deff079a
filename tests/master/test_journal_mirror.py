"""The journal's mirror outlives the machine: on a mounted path, and on object stores."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from elasticdl.errors import JobError
from elasticdl.master import journal as journal_module
from elasticdl.master import journal_mirror
from elasticdl.master.history import COLUMNS, History, read_history
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.journal_mirror import JournalMirror, copy_journal, last_master

DEADLINE_S = 60.0


@pytest.fixture(params=["mounted", "s3", "gcs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a mirror is: a mounted path, or an object store."""
    if request.param == "mounted":
        return str(tmp_path / "mounted" / "journal")
    return f"{request.getfixturevalue(request.param).root}/job/journal"


def begin(root: str, incarnation: int, directory: Path) -> Journal:
    """Open the journal of a master as its process does."""
    mirror = JournalMirror(root, incarnation)
    mirror.fetch(directory)
    return Journal(directory, mirror=mirror)


def bodies(directory: Path) -> list[int]:
    return [entry.body["n"] for entry in read_journal(directory)]


def names(root: Path) -> list[str]:
    return sorted(one.name for one in root.iterdir())


def test_a_journal_is_whole_where_only_its_mirror_is_left(root, tmp_path):
    told = itertools.count()
    for incarnation in (1, 2, 3):
        journal = begin(root, incarnation, tmp_path / str(incarnation))
        for _ in range(5):
            journal.append("x", {"n": next(told), "text": 'ü"\n', "of": [1.5, None]})
        journal.wait_for(journal.write([("y", {"n": next(told)}) for _ in range(300)]))
        journal.close()
        shutil.rmtree(tmp_path / str(incarnation))
    assert last_master(root) == 3
    assert copy_journal(root, tmp_path / "copy")
    found = list(read_journal(tmp_path / "copy"))
    assert [entry.number for entry in found] == list(range(1, 916))
    assert [entry.body["n"] for entry in found] == list(range(915))
    assert found[0].body == {"n": 0, "text": 'ü"\n', "of": [1.5, None]}
    assert abs(found[-1].time - time.time()) < DEADLINE_S


def test_the_history_goes_along(root, tmp_path):
    journal = begin(root, 1, tmp_path / "1")
    history = History(journal)
    row = [float(1000)] + [1] * (len(COLUMNS) - 1)
    history.add(row)
    journal.append("x", {"n": 1})
    journal.close()
    second = begin(root, 2, tmp_path / "2")
    assert History(second).rows() == [row]
    second.close()
    assert read_history(tmp_path / "2")[1] == [row]


WRITER = """
import os, signal, sys
from elasticdl.master.journal import Journal
from elasticdl.master.journal_mirror import JournalMirror

class Mirror(JournalMirror):
    left = int(sys.argv[4])

    def put(self, rows):
        super().put(rows)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

mirror = Mirror(sys.argv[1], int(sys.argv[2]))
mirror.fetch(sys.argv[3])
journal = Journal(sys.argv[3], mirror=mirror)
n = max([one.body["n"] for one in journal.entries()], default=-1)
while True:
    n += 1
    journal.append("x", {"n": n})
    print(n, flush=True)
"""


def test_masters_killed_between_the_put_and_the_reply_leave_nothing_out_that_was_told(
    root, tmp_path
):
    for incarnation in (1, 2):
        place = tmp_path / str(incarnation)
        writer = subprocess.run(
            [sys.executable, "-c", WRITER, root, str(incarnation), str(place), "7"],
            stdout=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
        )
        assert writer.returncode == -signal.SIGKILL
        told = [int(line) for line in writer.stdout.split()]
        assert told[-1] == 7 * incarnation - 2, "the last that was put was not told"
        shutil.rmtree(place)
    journal = begin(root, 3, tmp_path / "last")
    journal.close()
    assert bodies(tmp_path / "last") == list(range(14))


def test_while_the_store_is_away_the_journal_waits_and_then_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "LONGEST_PAUSE_S", 0.2)
    store.hurry()
    journal = begin(f"{store.root}/journal", 1, tmp_path / "1")
    journal.append("x", {"n": 0})
    line = store.server.line
    heard: queue.Queue[JobError | None] = queue.Queue()
    try:
        line.cut()
        for n in range(1, 30):
            journal.when_on_disk(journal.write([("x", {"n": n})]), heard.put)
        time_is_up = time.monotonic() + DEADLINE_S
        while journal._fails_since is None:
            assert time.monotonic() < time_is_up, "the mirror does not fail"
            time.sleep(0.02)
        assert heard.empty()
        assert bodies(tmp_path / "1") == [0], "nothing is there that the mirror lacks"
    finally:
        line.mend()
    assert [heard.get(timeout=DEADLINE_S) for _ in range(29)] == [None] * 29
    journal.close()
    copy_journal(f"{store.root}/journal", tmp_path / "copy")
    assert bodies(tmp_path / "copy") == list(range(30))


def test_a_store_that_is_slow_has_larger_groups_and_nobody_is_told_before(store, tmp_path):
    root = f"{store.root}/journal"
    journal = begin(root, 1, tmp_path / "1")
    try:
        store.server.line.delay(0.2)
        last = [journal.write([("x", {"n": n})]) for n in range(200)][-1]
        journal.wait_for(last)
    finally:
        store.server.line.mend()
    copy_journal(root, tmp_path / "copy")
    assert bodies(tmp_path / "copy") == list(range(200))
    assert len(journal_mirror._Reader(root).listing().groups) < 20
    journal.close()


def test_a_mirror_that_fails_for_too_long_is_a_journal_that_cannot_be_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(journal_module, "PATIENCE_S", 0.3)
    root = tmp_path / "journal"
    journal = begin(str(root), 1, tmp_path / "1")
    journal.append("x", {"n": 0})
    aside = tmp_path / "aside"
    root.rename(aside)
    root.write_text("a file is in its place")
    with pytest.raises(JobError, match="journal"):
        journal.append("x", {"n": 1})
    with pytest.raises(JobError, match="journal"):
        journal.append("x", {"n": 2})
    root.unlink()
    aside.rename(root)
    journal.append("x", {"n": 3})
    journal.close()
    copy_journal(str(root), tmp_path / "copy")
    assert bodies(tmp_path / "copy") == [0, 1, 2, 3]


def test_a_journal_is_closed_soon_though_the_mirror_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "CLOSE_S", 0.2)
    root = tmp_path / "journal"
    journal = begin(str(root), 1, tmp_path / "1")
    shutil.rmtree(root)
    root.write_text("a file is in its place")
    heard: queue.Queue[JobError | None] = queue.Queue()
    journal.when_on_disk(journal.write([("x", {"n": 0})]), heard.put)
    closing = threading.Thread(target=journal.close)
    closing.start()
    assert isinstance(heard.get(timeout=DEADLINE_S), JobError)
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert bodies(tmp_path / "1") == []


class Mirror:
    """One that does as a test says."""

    def __init__(self, put) -> None:
        self.put = put

    def close(self) -> None:
        pass


def test_a_journal_is_closed_soon_though_the_mirror_does_not_answer_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "CLOSE_S", 0.1)
    monkeypatch.setattr(journal_module, "LEAVE_S", 0.1)
    answers = threading.Event()
    journal = Journal(tmp_path, mirror=Mirror(lambda rows: answers.wait(DEADLINE_S)))
    heard: queue.Queue[JobError | None] = queue.Queue()
    number = journal.write([("x", {"n": 0})])
    journal.when_on_disk(number, heard.put)
    closing = threading.Thread(target=journal.close)
    closing.start()
    assert isinstance(heard.get(timeout=DEADLINE_S), JobError)
    with pytest.raises(JobError, match="closed"):
        journal.wait_for(number)
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    answers.set()
    journal._committer.join(DEADLINE_S)


def test_a_group_is_put_then_committed_then_sure_then_told(tmp_path):
    happened: list[tuple[str, list[int]]] = []

    def happens(what: str) -> None:
        happened.append((what, bodies(tmp_path)))

    journal = Journal(
        tmp_path,
        mirror=Mirror(lambda rows: happens("put")),
        wait_until_sure=lambda: happens("sure"),
    )
    heard = threading.Event()

    def told(failure: JobError | None) -> None:
        happens("told" if failure is None else "failed")
        heard.set()

    journal.when_on_disk(journal.write([("x", {"n": 0})]), told)
    assert heard.wait(DEADLINE_S)
    journal.close()
    assert happened == [("put", []), ("sure", [0]), ("told", [0])]


def test_whatever_a_mirror_raises_is_told_and_the_journal_goes_on(tmp_path):
    failures = iter([RuntimeError("no further thread")])

    def put(rows) -> None:
        for failure in failures:
            raise failure

    journal = Journal(tmp_path, mirror=Mirror(put))
    with pytest.raises(JobError, match="no further thread"):
        journal.append("x", {"n": 0})
    journal.append("x", {"n": 1})
    journal.close()
    assert bodies(tmp_path) == [0, 1]


def put(mirror: JournalMirror, first: int, last: int, word: str = "x") -> None:
    mirror.put([(n, 0.5, word, f'{{"n":{n}}}') for n in range(first, last + 1)])


def fetched(root: Path, incarnation: int, tmp_path: Path) -> JournalMirror:
    mirror = JournalMirror(str(root), incarnation)
    mirror.fetch(tmp_path / str(incarnation))
    return mirror


def test_what_a_former_master_adds_later_is_never_read(tmp_path):
    root = tmp_path / "journal"
    first = fetched(root, 1, tmp_path)
    put(first, 1, 3)
    second = fetched(root, 2, tmp_path)
    put(first, 4, 6, "late")
    put(second, 4, 4, "told")
    put(first, 3, 9, "late")
    fetched(root, 3, tmp_path)
    found = [(entry.number, entry.kind) for entry in read_journal(tmp_path / "3")]
    assert found == [(1, "x"), (2, "x"), (3, "x"), (4, "told")]


def test_a_master_that_died_before_it_said_where_it_went_on_from_changes_nothing(tmp_path):
    root = tmp_path / "journal"
    put(fetched(root, 1, tmp_path), 1, 3)
    fetched(root, 2, tmp_path)
    (root / "000002-after.json").unlink()
    put(fetched(root, 3, tmp_path), 4, 4)
    fetched(root, 4, tmp_path)
    assert bodies(tmp_path / "4") == [1, 2, 3, 4]


def test_a_group_that_is_missing_in_the_middle_is_an_error_and_at_the_end_it_was_never_told(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(journal_mirror, "_PAUSE_S", 0.0)
    root = tmp_path / "journal"
    mirror = fetched(root, 1, tmp_path)
    for n in (1, 2, 3, 4):
        put(mirror, n, n)
    (root / "000001-000000000004-000000000004.json").unlink()
    fetched(root, 2, tmp_path)
    assert bodies(tmp_path / "2") == [1, 2, 3]
    (root / "000001-000000000002-000000000002.json").unlink()
    with pytest.raises(JobError, match=r"entries 2 to 2 of master 1 are missing, and later ones"):
        fetched(root, 3, tmp_path)
    (root / "000001-after.json").unlink()
    with pytest.raises(JobError, match="where master 1 went on from is missing"):
        fetched(root, 4, tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("000001-000000000002-000000000003.json", ""),
        ("000001-000000000002-000000000003.json", '{"format":1,"entries":[[2,0.5,"x",{}]]}'),
        ("000001-000000000002-000000000003.json", '{"format":2,"entries":[]}'),
        ("000001-after.json", '{"format":1,"incarnation":"x","number":0}'),
        ("000001-after.json", '{"format":1,"incarnation":0,"number":7}'),
        ("000001-after.json", '{"format":1,"incarnation":1,"number":0}'),
    ],
)
def test_what_is_damaged_is_an_error_that_names_it(tmp_path, name, text):
    root = tmp_path / "journal"
    mirror = fetched(root, 1, tmp_path)
    put(mirror, 1, 1)
    put(mirror, 2, 3)
    (root / name).write_text(text)
    with pytest.raises(JobError, match=rf"journal '{root}': ({name}|master 1 went on)"):
        fetched(root, 2, tmp_path)


def test_a_master_has_an_incarnation_of_its_own(tmp_path):
    root = tmp_path / "journal"
    fetched(root, 2, tmp_path)
    for incarnation in (1, 2):
        with pytest.raises(JobError, match="master 2 has begun; this one"):
            fetched(root, incarnation, tmp_path)


def test_of_two_masters_that_begin_as_the_same_one_at_once_at_most_one_goes_on(
    tmp_path, monkeypatch
):
    root = tmp_path / "journal"
    put(fetched(root, 1, tmp_path), 1, 1)
    listing, read = journal_mirror._Reader.listing, journal_mirror._Reader.read
    looking, reading = threading.Barrier(2), threading.Barrier(2)
    looked: set[object] = set()

    def list_at_once(reader):
        found = listing(reader)
        if reader not in looked:
            looked.add(reader)
            looking.wait(DEADLINE_S)
        return found

    def read_at_once(reader, before=None):
        reading.wait(DEADLINE_S)
        return read(reader, before)

    monkeypatch.setattr(journal_mirror._Reader, "listing", list_at_once)
    monkeypatch.setattr(journal_mirror._Reader, "read", read_at_once)
    began: list[object] = []

    def start(name: str) -> None:
        try:
            JournalMirror(str(root), 2).fetch(tmp_path / name)
            began.append(name)
        except JobError as error:
            began.append(error)

    threads = [threading.Thread(target=start, args=(name,)) for name in ("a", "b")]
    for one in threads:
        one.start()
    for one in threads:
        one.join(DEADLINE_S)
    assert len(began) == 2
    assert sum(isinstance(one, JobError) for one in began) >= 1, began


class KilledCompacting:
    """A way to the mirror's files on which the compaction ends after some steps, as if killed."""

    def __init__(self, files, steps: int) -> None:
        self._files = files
        self._left = itertools.count(steps, -1)
        self.is_killed = False

    def __getattr__(self, name: str):
        def call(*given):
            if threading.current_thread().name == "journal compaction" and next(self._left) <= 0:
                self.is_killed = True
                raise SystemExit
            return getattr(self._files, name)(*given)

        return call


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_groups_are_compacted_and_nothing_is_missing_whenever_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_mirror, "COMPACTED", 5)
    for steps in itertools.count():
        root = tmp_path / f"journal-{steps}"
        place = tmp_path / f"places-{steps}"
        mirror = fetched(root, 1, place)
        files = KilledCompacting(mirror._files, steps)
        mirror._files = files
        for n in range(1, 7):
            put(mirror, n, n)
        assert mirror._compacting is not None
        mirror._compacting.join(DEADLINE_S)
        for n in (7, 8):
            put(mirror, n, n)
        fetched(root, 2, place)
        assert bodies(place / "2") == list(range(1, 9))
        if not files.is_killed:
            break
    assert steps == 7, "one put, five deletions and the history"
    groups = [name for name in names(root) if name.startswith("000001-0")]
    assert groups == [
        "000001-000000000001-000000000005.json",
        "000001-000000000006-000000000006.json",
        "000001-000000000007-000000000007.json",
        "000001-000000000008-000000000008.json",
    ]


def test_what_was_put_and_could_not_be_committed_comes_again_and_is_compacted_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(journal_mirror, "COMPACTED", 3)
    root = tmp_path / "journal"
    mirror = fetched(root, 1, tmp_path)
    for first, last in ((1, 1), (2, 3), (2, 4), (2, 6), (7, 7), (8, 8)):
        put(mirror, first, last)
    mirror._compacting.join(DEADLINE_S)
    assert [name for name in names(root) if name.startswith("000001-0")] == [
        "000001-000000000001-000000000007.json",
        "000001-000000000008-000000000008.json",
    ]
    fetched(root, 2, tmp_path)
    assert bodies(tmp_path / "2") == list(range(1, 9))


def test_a_compaction_that_failed_is_made_up_for_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_mirror, "COMPACTED", 2)
    root = tmp_path / "journal"
    mirror = fetched(root, 1, tmp_path)
    kept = mirror._files.put

    def fails(path, data):
        if threading.current_thread().name == "journal compaction":
            raise OSError("the store is away")
        kept(path, data)

    mirror._files = type("Files", (), {"put": staticmethod(fails)})()
    for n in (1, 2, 3):
        put(mirror, n, n)
    mirror._compacting.join(DEADLINE_S)
    assert len([name for name in names(root) if name.startswith("000001-0")]) == 3
    mirror._files = JournalMirror(str(root), 9)._files
    for n in (4, 5):
        put(mirror, n, n)
    mirror._compacting.join(DEADLINE_S)
    groups = [name for name in names(root) if name.startswith("000001-0")]
    assert groups == [
        "000001-000000000001-000000000004.json",
        "000001-000000000005-000000000005.json",
    ]
    fetched(root, 2, tmp_path)
    assert bodies(tmp_path / "2") == [1, 2, 3, 4, 5]


def test_what_a_killed_master_left_half_written_on_a_mounted_path_goes_with_the_next(tmp_path):
    root = tmp_path / "journal"
    put(fetched(root, 1, tmp_path), 1, 1)
    unfinished = root / ".000001-000000000002-000000000002.json.17.ab12.tmp"
    unfinished.write_text('{"format":1,"entr')
    fetched(root, 2, tmp_path)
    assert bodies(tmp_path / "2") == [1]
    assert not unfinished.exists()


def test_a_journal_of_this_disk_that_is_older_than_its_mirror_is_replaced(tmp_path):
    journal = begin(str(tmp_path / "journal"), 1, tmp_path / "state")
    journal.append("x", {"n": 1})
    journal.close()
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite") as db:
        db.execute("DELETE FROM entries")
    journal = begin(str(tmp_path / "journal"), 2, tmp_path / "state")
    journal.append("x", {"n": 2})
    journal.close()
    assert bodies(tmp_path / "state") == [1, 2]


def test_where_nothing_is_mirrored_there_is_no_journal(root, tmp_path):
    assert last_master(root) == 0
    assert not copy_journal(root, tmp_path / "copy")
    assert not os.path.exists(tmp_path / "copy" / "journal.sqlite")
