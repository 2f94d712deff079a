"""The copy that another machine keeps of a job's directory, over a real server of its master."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from elasticdl.api.kubernetes.job_copy import JobCopy
from elasticdl.api.launcher import to_status
from elasticdl.credentials import Credentials
from elasticdl.job_spec import JobSpec
from elasticdl.master import journal_copy
from elasticdl.master.cluster.kubernetes.check import MeanwhileServicer
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.history import History, read_history
from elasticdl.master.job_files import JobFiles
from elasticdl.master.journal import FILE_NAME, Journal, read_journal
from elasticdl.master.journal_copy import JournalCopy, piece_of
from elasticdl.master.servicer import MasterServicer
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, GrpcTransport, RpcFailed, Server, Service
from tests.master.test_history import BEGAN, fill

SESSION = "4c5e.1"
SHOWN = Credentials("token")
MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]


class Job:
    """A job's files where its master is, a server that gives them away, and a copy elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.there = directory / "there"
        self.here = directory / "here"
        for each in (self.there, self.here):
            each.mkdir()
        options = {"model_zoo": "/zoo", "model_def": "m.M", "data": "/d", "output": "/o"}
        self.spec = JobSpec.resolve("train", {**options, "job_dir": str(self.there)})
        self.journal = Journal(self.there)
        self.files = JobFiles(self.spec, self.there, self.journal, SESSION)
        servicer = MasterServicer(cast(Coordinator, None), dict, files=self.files)
        self.server = Server([Service(MASTER, servicer)], SHOWN)
        self.master = Client(MASTER, GrpcTransport(self.server.address, SHOWN), "the master")
        self.copy = JobCopy(self.here)
        self.taken = 0

    def bring(self) -> bool:
        return self.copy.bring(self.master, self.take)

    def take(self) -> None:
        self.taken += 1

    def write_result(self, **result: Any) -> None:
        (self.there / "result.json").write_text(json.dumps(result))

    def same(self) -> bool:
        return list(read_journal(self.here)) == list(read_journal(self.there))

    def close(self) -> None:
        self.master.close()
        self.server.stop()
        self.journal.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.close()


def test_a_copy_gains_what_the_journal_gains(job: Job) -> None:
    assert not job.bring()
    assert not (job.here / FILE_NAME).exists()
    job.journal.append("plan", {"what": "ü" * 10})
    assert not job.bring()
    assert job.same()
    inode = (job.here / FILE_NAME).stat().st_ino
    for number in range(50):
        job.journal.append("done", {"task": number})
    assert not job.bring()
    assert job.same()
    assert (job.here / FILE_NAME).stat().st_ino == inode, "it was added to"


def test_a_long_journal_comes_in_pieces(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_copy, "PIECE_BYTES", 1000)
    job.journal.wait_for(job.journal.write([("done", {"text": "x" * 300})] * 40))
    history = History(job.journal)
    fill(history, 0, 20)
    job.journal.append("done", {})
    reply = job.master.call("FetchJournal", master_pb2.FetchJournalRequest())
    assert 0 < len(reply.entries) < 10
    assert not reply.is_all
    assert not job.bring()
    assert job.same()
    assert read_history(job.here) == read_history(job.there)


def test_a_history_that_becomes_coarser_does_so_in_the_copy(job: Job) -> None:
    history = History(job.journal, most_rows=10)
    last = 0
    for upto in (8, 15, 100, 130):
        fill(history, last, upto)
        last = upto
        job.journal.append("done", {})
        job.bring()
        assert read_history(job.here) == read_history(job.there)
    assert read_history(job.here)[0] > 8
    assert read_history(job.here)[1][-1][0] > BEGAN + 100


def test_nothing_is_told_that_may_not_be_known_so_far(job: Job) -> None:
    for number in range(3):
        job.journal.append("done", {"task": number})
    reply = piece_of(job.journal.path, master_pb2.FetchJournalRequest(), last=2)
    assert [one.number for one in reply.entries] == [1, 2]


def test_a_journal_that_began_anew_replaces_the_copy(job: Job, tmp_path: Path) -> None:
    job.journal.wait_for(job.journal.write([("done", {})] * 5))
    job.bring()
    other = tmp_path / "other"
    other.mkdir()
    anew = Journal(other)
    anew.append("plan", {"number": 2})
    reply = piece_of(anew.path, JournalCopy(job.here).lacks(), anew.told_number)
    anew.close()
    JournalCopy(job.here).add(reply)
    assert [one.body for one in read_journal(job.here)] == [{"number": 2}]


def test_copies_that_are_brought_at_the_same_time_are_one(job: Job) -> None:
    job.journal.wait_for(job.journal.write([("done", {"n": n}) for n in range(500)]))
    threads = [threading.Thread(target=job.copy.bring, args=(job.master,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert job.same()


def test_the_description_is_as_the_check_resolved_it_and_nobody_elses(job: Job) -> None:
    job.bring()
    found = JobSpec.load(job.here)
    assert found.model_def == "m.M"
    assert (job.here / "job.yaml").stat().st_mode & 0o077 == 0
    assert list(job.here.glob(".*")) == []


def test_figures_are_fetched_when_they_change(job: Job) -> None:
    (job.there / "figures.json").write_text("{}")
    job.bring()
    inode = (job.here / "figures.json").stat().st_ino
    job.bring()
    assert (job.here / "figures.json").stat().st_ino == inode
    (job.there / "figures.json").write_text('{"total": {}}')
    job.bring()
    assert json.loads((job.here / "figures.json").read_text()) == {"total": {}}


def test_a_result_of_several_pieces_is_taken_and_the_master_need_not_stay(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elasticdl.master.job_files.PIECE_BYTES", 1000)
    assert not job.bring()
    job.journal.append("result", {})
    job.write_result(session=SESSION, state="succeeded", error="e" * 5000)
    waiting = threading.Thread(target=job.files.wait_until_taken, args=(60.0,))
    waiting.start()
    assert job.bring()
    waiting.join(10)
    assert not waiting.is_alive()
    assert job.taken == 1
    assert json.loads((job.here / "result.json").read_text())["state"] == "succeeded"
    assert job.same(), "with what was written last"


def test_who_only_looks_on_does_not_take_the_result(job: Job) -> None:
    job.write_result(session=SESSION, state="succeeded")
    assert job.copy.bring(job.master)
    assert not job.files._is_taken.is_set()


def test_a_result_of_the_session_before_is_none(job: Job) -> None:
    job.write_result(session="4c5e.0", state="failed")
    assert not job.bring()
    assert not (job.here / "result.json").exists()
    assert job.taken == 0


def test_a_master_stays_only_for_who_has_asked_lately(tmp_path: Path) -> None:
    now = 100.0
    journal = Journal(tmp_path)
    spec = JobSpec.resolve("train", _OPTIONS)
    files = JobFiles(spec, tmp_path, journal, SESSION, lambda: now)
    files.wait_until_taken(10.0)
    files.piece(master_pb2.FetchRequest(file="figures.json"))
    now += 6.0
    files.wait_until_taken(10.0)
    journal.close()


_OPTIONS = {"model_zoo": "/zoo", "model_def": "m.M", "data": "/d", "output": "/o"}


def test_while_the_model_is_checked_there_is_nothing_to_copy_and_that_is_no_error(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server([Service(MASTER, MeanwhileServicer())], SHOWN)
    master = Client(MASTER, GrpcTransport(server.address, SHOWN), "the master")
    try:
        assert not job.copy.bring(master)
        said = master.call("GetStatus", master_pb2.StatusRequest())
        assert to_status(said).state == "checking the model"
    finally:
        master.close()
        server.stop()
    assert list(job.here.iterdir()) == []
    assert caplog.text == ""


def test_no_other_file_is_given_away(job: Job) -> None:
    (job.there / "token").write_text("secret")
    for name in ("token", "../there/token", "", "/etc/passwd"):
        with pytest.raises(RpcFailed, match="not one that a master gives away"):
            job.master.call("Fetch", master_pb2.FetchRequest(file=name))


def test_a_copy_that_cannot_be_read_says_so(job: Job) -> None:
    job.journal.append("plan", {})
    (job.here / FILE_NAME).write_bytes(b"no journal" * 100)
    with pytest.raises(Exception, match="not a database"):
        job.bring()
    with pytest.raises(sqlite3.Error):
        JournalCopy(job.here).lacks()
