"""Partitions that are restored from their copies, coordinated by the real master in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elasticdl.api.events import events
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.cluster.local import to_message
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.journal import read_journal
from elasticdl.master.servicer import MasterServicer
from elasticdl.proto import master_pb2
from elasticdl.ps.joining import join
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client, DirectTransport, RpcUnavailable, Service, Transport
from tests.checkpoints import wait_for_writers
from tests.master.test_checkpoints import Job
from tests.standbys import Standbys

MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]


class StandbyJob(Job):
    """A job of one worker, the test, whose two partitions keep copies of each other."""

    def __init__(self, tmp_path: Any, **options: Any) -> None:
        super().__init__(tmp_path, ps_standby=1, **options)
        self.spec.save()  # `events` finds the job by it.
        self.standbys = Standbys(self.servers.partitions)
        self.initialize()
        self.wait_for_number(1)

    def copy(self) -> None:
        wait_for_writers()
        assert self.standbys.copy()

    def lose(self, index: int) -> InstanceSpec:
        """A partition is gone; return who is launched instead."""
        spec = self.ps(index)
        self.backend.tell(InstanceEnded(spec, End.of_exit_code(-9)))
        return InstanceSpec(Role.PS, index, spec.incarnation + 1)

    def join(
        self, spec: InstanceSpec, connect: Callable[[master_pb2.Partition], Transport] | None = None
    ) -> Partition:
        """Have a partition that was launched do what its process does."""
        servicer = Service(MASTER, MasterServicer(self.coordinator, audit=dict))
        master = Client(MASTER, DirectTransport(servicer), "the master")
        partition = Partition(spec.index, spec.incarnation)
        connect = connect or self.standbys.connect
        join(master, to_message(spec), partition, f"host:{spec.index}", connect=connect)
        self.servers.partitions[spec.index] = partition
        cluster = master_pb2.Cluster(
            routing=self.servers.cluster.routing,
            partitions=[
                master_pb2.Partition(index=one.index, incarnation=one.incarnation)
                for one in self.servers.partitions
            ],
        )
        self.servers.client = self.servers.connect(cluster)
        return partition

    def restored(self) -> list[str]:
        return [one.text for one in events(str(self.directory)) if one.kind == "restored"]


@pytest.fixture
def start(tmp_path):
    jobs: list[StandbyJob] = []

    def start_one(**options: Any) -> StandbyJob:
        jobs.append(StandbyJob(tmp_path, **options))
        return jobs[-1]

    yield start_one
    for job in jobs:
        job.close()


def test_only_what_came_after_the_copy_is_granted_again(start):
    job = start()
    job.train(3)
    job.copy()
    late = job.train(2)
    spec = job.lose(0)
    assert job.join(spec).progress.closed.intervals
    assert job.restored() == [
        "parameter server 0 was restored from its copy on parameter server 1, 2 tasks again"
    ]
    assert sorted(job.train(2)) == sorted(late)
    assert job.train(1) != late[:1]
    assert job.applied() == [{24}, {24}]


def test_a_copy_that_lacks_the_newest_checkpoint_is_not_restored(start):
    job = start(checkpoint_steps=2)
    job.train(1)
    job.copy()
    job.train(1)
    path = job.wait_for_number(2)
    late = job.train(1)
    spec = job.lose(1)
    job.join(spec)
    assert path.name == "0000000002"
    assert job.restored() == ["parameter server 1 was restored from checkpoint 2, 1 task again"]
    assert job.train(1) == late


def test_a_copy_is_restored_that_goes_beyond_a_checkpoint_which_was_given_up(start, monkeypatch):
    job = start(checkpoint_steps=2)
    commit = job.coordinator.commit_checkpoint
    killed = []

    def lose_one_first(checkpoint, version):
        monkeypatch.setattr(job.coordinator, "commit_checkpoint", commit)
        job.copy()
        killed.append(job.lose(0))
        return commit(checkpoint, version)

    monkeypatch.setattr(job.coordinator, "commit_checkpoint", lose_one_first)
    job.train(2)
    job.wait_for("its end", lambda: list(read_journal(job.directory, "checkpoint_retried")))
    job.join(killed[0])
    assert job.restored() == [
        "parameter server 0 was restored from its copy on parameter server 1, 0 tasks again"
    ]
    job.train(1)
    assert job.applied() == [{12}, {12}]


def test_a_partition_that_was_replaced_spoils_no_copy_and_one_of_two_lives_ago_serves(start):
    job = start()
    zombie, kept = job.servers.partitions[0], job.standbys.standbys[0]
    first = job.train(2)
    job.copy()
    spec = job.lose(0)
    job.join(spec)
    assert zombie.begin_copy(0) is not None
    assert not kept.copy(), "it is refused"
    late = job.train(2)
    again = job.lose(0)  # It had no time for a copy of its own.
    job.join(again)
    assert again.incarnation == 3
    text = "parameter server 0 was restored from its copy on parameter server 1, "
    assert job.restored() == [f"{text}0 tasks again", f"{text}2 tasks again"]
    assert sorted(job.train(2)) == sorted(late) != sorted(first)
    assert job.applied() == [{16}, {16}]


def test_two_that_are_lost_at_once_are_restored_from_the_checkpoint(start):
    job = start()
    job.train(2)
    job.copy()
    both = [job.lose(index) for index in range(2)]
    for index in range(2):
        job.standbys.replace(index, 2)
    for spec in both:
        job.join(spec)
    assert job.restored() == [
        "parameter server 0 was restored from checkpoint 1, 2 tasks again",
        "parameter server 1 was restored from checkpoint 1, 0 tasks again",
    ]
    job.train(2)
    assert job.applied() == [{8}, {8}]


@pytest.mark.parametrize("fails", ["at once", "half way", "damaged"])
def test_where_the_copy_cannot_be_read_the_checkpoint_is_restored(start, fails, monkeypatch):
    monkeypatch.setattr("elasticdl.ps.copy_source.DEADLINE_S", 0.1)
    job = start()
    job.train(2)
    job.copy()
    if fails == "damaged":
        files = job.standbys.copies[1]._kept[0].parts[0].files
        for data in files.values():
            data[len(data) // 2] ^= 1
    else:
        calls = []

        def lose(path: str) -> None:
            calls.append(path)
            if fails == "at once" or len(calls) > 3:
                raise RpcUnavailable(path)

        job.standbys.hook = lose
    job.join(job.lose(0))
    assert job.restored() == ["parameter server 0 was restored from checkpoint 1, 2 tasks again"]
    job.train(2)
    assert job.applied() == [{8}, {8}]


def test_without_the_option_nobody_is_told_of_a_keeper(tmp_path):
    job = Job(tmp_path)
    try:
        job.initialize()
        job.wait_for_number(1)
        assert job.coordinator.restore(job.ps(0)).keeper is None
    finally:
        job.close()


def test_with_one_partition_nobody_keeps_its_copy_and_the_job_says_so_until_there_are_more(start):
    job = start()

    def said() -> list[str]:
        return [one.text for one in events(str(job.directory)) if one.kind == "standby"]

    assert job.coordinator.rescale(1) == ""
    (alone,) = job.wait_for("it to be said", said)
    assert alone.startswith("one parameter server has no other to keep a copy of it")
    assert alone in [text for _, text in job.coordinator.messages(0)]
    job.servers.partitions.pop()
    job.restore([(0, 2)], of=job.wait_for_number(2))
    assert job.coordinator.rescale(3) == ""
    assert job.wait_for("it to be said", lambda: said()[1:]) == [
        "parameter servers keep copies of each other again"
    ]
