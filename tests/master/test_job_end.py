"""A job has ended for others only once its end is on disk, whatever else is written meanwhile."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from elasticdl.data.shards import Shard
from elasticdl.errors import JobError
from elasticdl.instance import parse_arguments
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.__main__ import run
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.servicer import MasterServicer
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.master.tenure import LocalTenure
from elasticdl.proto import master_pb2
from tests.master.test_coordinator import PS, WORKER, Recorder

WAIT_S = 30.0


class SlowDisk(Journal):
    """Each group waits for a turn once `is_slow` is set."""

    def __init__(self, job_dir: Path) -> None:
        self.is_slow = False
        self.groups: queue.Queue[list[str]] = queue.Queue()
        self.turns: queue.Queue[None] = queue.Queue()
        super().__init__(job_dir)

    def _commit(self, group: Sequence[tuple[int, float, str, str]], kept: Sequence) -> None:
        if self.is_slow:
            self.groups.put([kind for _, _, kind, _ in group])
            self.turns.get(timeout=WAIT_S)
        super()._commit(group, kept)


class AtItsEnd:
    """A job whose end is written behind an older group, which the disk is at."""

    def __init__(self, job_dir: Path) -> None:
        spec = JobSpec(command="train", job_dir=str(job_dir), num_workers=2, num_ps=1)
        plan = JobPlan(phases=(TaskKind.TRAINING,), shards=(Shard("a", 20),), records_per_task=20)
        self.journal = SlowDisk(job_dir)
        self.coordinator = Coordinator(spec, plan, Recorder(), self.journal)
        self.coordinator.start()
        assert self.coordinator.register(Registered(PS, "here:1", 1))
        assert self.coordinator.register(Registered(WORKER, "", 2))
        task = self.coordinator.lease(WORKER, 0).task
        self.journal.is_slow = True
        self.failures: queue.Queue[JobError | None] = queue.Queue()
        scaled = threading.Thread(target=self._try, args=(self.coordinator.scale, 1))
        scaled.start()
        assert "scaled" in self.journal.groups.get(timeout=WAIT_S)
        completed = ledger_events.TaskCompleted(task.id, (1,), 1)
        ended = threading.Thread(target=self._try, args=(self.coordinator.report, completed))
        ended.start()
        self.threads = [scaled, ended]

    def _try(self, do, *args) -> None:
        try:
            do(*args)
            self.failures.put(None)
        except JobError as error:
            self.failures.put(error)

    def heartbeat(self):
        servicer = MasterServicer(self.coordinator, dict)
        instance = master_pb2.InstanceId(role="worker", index=0, incarnation=1)
        return servicer.heartbeat(master_pb2.HeartbeatRequest(instance=instance))

    def close(self) -> None:
        self.journal.is_slow = False
        self.journal.turns.put(None)
        for thread in self.threads:
            thread.join(WAIT_S)
        self.journal.close()


@pytest.fixture
def job(tmp_path):
    one = AtItsEnd(tmp_path)
    yield one
    one.close()


def test_an_older_group_does_not_end_the_job(job, tmp_path):
    job.journal.turns.put(None)
    assert job.failures.get(timeout=WAIT_S) is None, "the older group is on disk"
    assert "ended" in job.journal.groups.get(timeout=WAIT_S), "the disk is at the end now"
    assert job.coordinator.outcome is not None
    assert not job.coordinator.ended.is_set()
    reply = job.heartbeat()
    assert not reply.done(), "what it tells is not on disk"
    job.journal.turns.put(None)
    assert job.coordinator.ended.wait(WAIT_S)
    assert "ended" in [entry.kind for entry in read_journal(tmp_path)]
    assert job.coordinator.outcome.state == "succeeded"
    assert reply.result(WAIT_S) is not None
    assert job.heartbeat().result(WAIT_S).job_finished


def test_an_end_that_cannot_be_written_is_a_failure(job, tmp_path):
    job.journal.turns.put(None)
    assert job.failures.get(timeout=WAIT_S) is None
    assert "ended" in job.journal.groups.get(timeout=WAIT_S)
    job.journal._db.execute("PRAGMA query_only = ON")
    job.journal.turns.put(None)
    assert job.coordinator.ended.wait(WAIT_S)
    assert job.coordinator.outcome.state == "failed"
    assert "readonly" in job.coordinator.outcome.error
    assert "readonly" in str(job.failures.get(timeout=WAIT_S)), "the worker hears of it"
    assert "ended" not in [entry.kind for entry in read_journal(tmp_path)]


def test_a_job_whose_data_are_gone_fails_with_its_first_master(tmp_path: Path) -> None:
    """They were there when they were checked, elsewhere or before."""
    JobSpec(
        command="train",
        job_dir=str(tmp_path),
        model_zoo=str(tmp_path),
        model_def="any.Model",
        data=f"{tmp_path}/gone-*.recordio",
        output=str(tmp_path / "model"),
    ).save()
    (tmp_path / "token").write_text("secret")
    arguments = parse_arguments("master", [f"--job_dir={tmp_path}", "--session=this.1"])
    outcome = run(arguments, Recorder(), LocalTenure(1))
    assert outcome is not None
    assert (outcome.state, outcome.traceback) == ("failed", "")
    assert "gone-*.recordio': matches no file" in outcome.error
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert (result["session"], result["state"]) == ("this.1", "failed")
    assert result["error"] == outcome.error
