"""The last checkpoint is damaged: an older one takes its place, or the job says what to do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from elasticdl.api.events import events
from elasticdl.errors import JobError
from elasticdl.heartbeat import NotAMember
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.cluster.local import to_message
from elasticdl.master.cluster_state import CommittedCheckpoint
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.placement import Placement
from elasticdl.master.recovery import recover
from elasticdl.master.servicer import MasterServicer
from elasticdl.proto import master_pb2
from elasticdl.ps.joining import join
from elasticdl.ps.manifest import MANIFEST, numbers_in, read_manifest, verify
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client, DirectTransport, Service
from tests.master.test_checkpoints import DEADLINE_S, Job, start

__all__ = ["start"]


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:  # In place: its size never changes, whoever looks meanwhile.
        content = file.read()
        file.seek(len(content) // 2)
        file.write(bytes([content[len(content) // 2] ^ 1]))


def file_of(checkpoint: Path, partition: int, kind: str = "dense") -> Path:
    """A file of a partition's part."""
    (part,) = [one for one in read_manifest(checkpoint).parts if one["partition"] == partition]
    return checkpoint / next(one["name"] for one in part["files"] if one["kind"] == kind)


def lose(job: Job, index: int) -> InstanceSpec:
    """Kill a partition; return who replaces it."""
    gone = job.ps(index)
    job.backend.tell(InstanceEnded(gone, End.of_exit_code(-9)))
    return InstanceSpec(Role.PS, index, gone.incarnation + 1)


def rejoin(job: Job, *specs: InstanceSpec) -> list[str]:
    """Have replaced partitions join as they do in their processes; return what they restored."""
    descriptor = master_pb2.DESCRIPTOR.services_by_name["Master"]
    service = Service(descriptor, MasterServicer(job.coordinator, dict))
    master = Client(descriptor, DirectTransport(service), "the master")
    restored: dict[int, str] = {}

    def join_one(spec: InstanceSpec) -> None:
        partition = Partition(spec.index, spec.incarnation)
        said = join(master, to_message(spec), partition, "in this process")
        job.servers.partitions[spec.index] = partition
        restored[spec.index] = said.restored_from

    threads = [threading.Thread(target=join_one, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    cluster = job.coordinator.cluster()
    assert cluster is not None, restored
    partitions = [
        master_pb2.Partition(index=one.spec.index, incarnation=one.spec.incarnation)
        for one in cluster.partitions
    ]
    message = master_pb2.Cluster(routing=job.servers.cluster.routing, partitions=partitions)
    job.servers.client = job.servers.connect(message)
    return [restored[spec.index] for spec in specs]


def train_to(job: Job, number: int) -> list[int]:
    """Train two tasks, and wait for the checkpoint that comes of that."""
    tasks = job.train(2)
    job.wait_for_number(number)
    return tasks


@pytest.mark.parametrize("damage", ["byte", "file", "manifest"])
def test_an_older_checkpoint_takes_its_place_and_what_came_after_that_is_trained_again(
    start, damage
):
    job = start(checkpoint_steps=2, keep_checkpoints=3)
    job.spec.save()  # `events` finds the job by it.
    job.initialize()
    job.wait_for_number(1)
    train_to(job, 2)
    again = train_to(job, 3)
    path = job.root / f"{3:010d}"
    if damage == "byte":
        flip_a_byte(file_of(path, 0))
    else:
        (file_of(path, 0) if damage == "file" else path / MANIFEST).unlink()
    assert rejoin(job, lose(job, 0)) == ["checkpoint 2"]
    (said,) = [text for _, text in job.coordinator.messages(0) if "cannot be restored" in text]
    assert said.startswith("checkpoint 3 cannot be restored (checkpoint ")
    assert str(path) in said
    assert "): checkpoint 2 takes its place, and what came after that is trained again" in said
    (told,) = [one for one in events(str(job.directory)) if one.kind == "checkpoint_damaged"]
    assert told.text == said
    assert (told.body["number"], told.body["instead"]) == (3, 2)
    assert sorted(job.train(2)) == sorted(again), "what the older one lacks comes first"
    assert job.applied() == [{16}, {16}], "once in each group; the other partition drops repeats"
    train_to(job, 4)
    last = read_manifest(job.wait_for_number(4))
    assert last.chain == (4,), "it builds on nothing"
    job.wait_for("the removal of the damaged one", lambda: 3 not in numbers_in(job.root))
    assert verify(job.root / f"{4:010d}") == []


def test_the_newest_of_those_that_are_whole_is_restored_by_all_that_need_one(start):
    job = start(checkpoint_steps=2, keep_checkpoints=4)
    job.initialize()
    job.wait_for_number(1)
    trained = [train_to(job, number) for number in (2, 3, 4)]
    flip_a_byte(file_of(job.root / f"{4:010d}", 0))
    flip_a_byte(file_of(job.root / f"{3:010d}", 1))
    # The second one has not found anything wrong with its own part.
    assert rejoin(job, lose(job, 0), lose(job, 1))[0] == "checkpoint 2"
    assert job.coordinator.committed.number == 2
    assert sorted(job.train(4)) == sorted(trained[1] + trained[2])
    assert job.applied() == [{24}, {24}]


def test_a_master_that_is_restarted_knows_which_one_was_damaged(start):
    job = start(checkpoint_steps=2)
    job.initialize()
    job.wait_for_number(1)
    train_to(job, 2)
    again = train_to(job, 3)
    flip_a_byte(file_of(job.root / f"{3:010d}", 1, "progress"))
    assert rejoin(job, lose(job, 1)) == ["checkpoint 2"]
    job.close()
    recovered = recover(job.directory)
    job.journal = Journal(job.directory)
    job.coordinator = Coordinator(
        job.spec, recovered.plan, job.backend, job.journal, 2, "", recovered
    )
    assert job.coordinator.committed.number == 2
    assert job.coordinator.placement.standing == {1, 2}
    assert sorted(job.train(2)) == sorted(again)


def test_where_what_came_after_is_not_known_any_more_the_job_says_what_can_be_done(start):
    job = start(checkpoint_steps=2, keep_checkpoints=1)
    job.initialize()
    whole = job.wait_for_number(1)
    train_to(job, 2)
    path = job.root / f"{2:010d}"
    assert read_manifest(path).chain == (1, 2)
    flip_a_byte(file_of(path, 0))
    spec = lose(job, 0)
    descriptor = master_pb2.DESCRIPTOR.services_by_name["Master"]
    request = master_pb2.RegisterRequest(instance=to_message(spec), unusable=2, why="damaged")
    service = Service(descriptor, MasterServicer(job.coordinator, dict))
    client = Client(descriptor, DirectTransport(service), "the master")
    assert not client.call("Register", request, DEADLINE_S).HasField("restore")
    assert job.coordinator.ended.wait(DEADLINE_S)
    error = job.coordinator.outcome.error
    assert error.startswith(f"checkpoint 2 cannot be restored (checkpoint '{path}': ")
    assert error.endswith(f"--warm_start={whole}")
    assert "\n" not in error


def test_what_a_damaged_one_may_build_on_is_removed_only_once_another_is_kept(start, monkeypatch):
    job = start(checkpoint_steps=2, keep_checkpoints=1)
    job.initialize()
    job.wait_for_number(1)
    commit = job.coordinator.commit_checkpoint

    def cut_short_once_it_is_committed(checkpoint, version):
        monkeypatch.setattr(job.coordinator, "commit_checkpoint", commit)
        is_committed = commit(checkpoint, version)
        file = file_of(Path(checkpoint.path), 0)
        file.write_bytes(file.read_bytes()[:-1])
        return is_committed

    monkeypatch.setattr(job.coordinator, "commit_checkpoint", cut_short_once_it_is_committed)
    train_to(job, 2)
    at_once = []
    begin = job.coordinator.begin_checkpoint

    def look_first(number):
        at_once.append(numbers_in(job.root))
        return begin(number)

    monkeypatch.setattr(job.coordinator, "begin_checkpoint", look_first)
    train_to(job, 3)
    assert at_once[0] == [1, 2]
    assert read_manifest(job.root / f"{3:010d}").chain == (3,)
    job.wait_for("the removal of both", lambda: numbers_in(job.root) == [3])


def test_where_no_older_one_is_whole_the_job_ends_and_says_so(start):
    job = start(checkpoint_steps=2)
    job.initialize()
    job.wait_for_number(1)
    train_to(job, 2)
    for number in (1, 2):
        flip_a_byte(file_of(job.root / f"{number:010d}", 0))
    lose(job, 0)
    job.coordinator.doubt_checkpoint(2, "its SHA-256")
    assert job.coordinator.ended.wait(DEADLINE_S)
    assert job.coordinator.outcome.error.endswith(
        "and no older one is whole: the training has to begin again"
    )
    assert not list(read_journal(job.directory, "checkpoint_damaged"))


def test_one_that_is_whole_is_restored_whoever_doubts_it(start):
    job = start(checkpoint_steps=2)
    job.initialize()
    job.wait_for_number(1)
    train_to(job, 2)
    spec = lose(job, 0)
    job.coordinator.doubt_checkpoint(2, "no memory")
    job.wait_for("it to be looked at", lambda: job.coordinator.restore(spec) is not None)
    job.coordinator.doubt_checkpoint(1, "it is not the last one")
    assert rejoin(job, spec) == ["checkpoint 2"]
    assert not list(read_journal(job.directory, "checkpoint_damaged"))
    third = lose(job, 0)

    class CannotRead(Partition):
        def restore(self, source, routing):
            raise JobError("it cannot be read here")

    descriptor = master_pb2.DESCRIPTOR.services_by_name["Master"]
    service = Service(descriptor, MasterServicer(job.coordinator, dict))
    master = Client(descriptor, DirectTransport(service), "the master")
    partition = CannotRead(0, third.incarnation)
    with pytest.raises(JobError, match="cannot be read here"):
        join(master, to_message(third), partition, "in this process")
    with pytest.raises(NotAMember):
        join(master, to_message(spec), Partition(0, spec.incarnation), "in this process")


def test_a_damaged_older_one_takes_no_new_one_with_it(start):
    job = start(checkpoint_steps=2, keep_checkpoints=3)
    job.initialize()
    job.wait_for_number(1)
    train_to(job, 2)
    file_of(job.root / f"{1:010d}", 0).unlink()  # What the next ones build on.
    train_to(job, 3)
    path = job.wait_for_number(3)
    assert read_manifest(path).chain == (3,), "it builds on nothing"
    train_to(job, 4)
    assert verify(path) == []
    assert verify(job.wait_for_number(4)) == []
    assert not list(read_journal(job.directory, ("checkpoint_failed", "checkpoint_retried")))


def test_what_was_granted_before_partitions_moved_is_told_from_what_was_granted_after(start):
    job = start()
    job.initialize()
    job.wait_for_number(1)
    descriptor = master_pb2.DESCRIPTOR.services_by_name["Master"]
    service = Service(descriptor, MasterServicer(job.coordinator, dict))
    master = Client(descriptor, DirectTransport(service), "the master")

    def lease(request: int) -> master_pb2.LeaseReply:
        worker = master_pb2.InstanceId(role="worker", incarnation=1)
        message = master_pb2.LeaseRequest(instance=worker, request=request)
        return master.call("Lease", message, DEADLINE_S)

    before = lease(100)
    assert before.cluster_version == job.coordinator.cluster().version
    spec = lose(job, 0)
    meanwhile = lease(101)
    assert rejoin(job, spec) == ["checkpoint 1"]
    now = job.coordinator.cluster().version
    assert before.cluster_version < meanwhile.cluster_version < now
    master.call(
        "ReturnTasks",
        master_pb2.ReturnTasksRequest(
            instance=master_pb2.InstanceId(role="worker", incarnation=1),
            grants=[before.grant, meanwhile.grant],
        ),
        DEADLINE_S,
    )
    assert lease(102).cluster_version == now


def test_a_job_that_runs_for_years_remembers_only_the_checkpoints_it_can_go_back_to():
    placement = Placement(num_groups=64, num_ps=2, num_kept=3)
    for number in range(1, 1000):
        placement.commit(CommittedCheckpoint(number, "", 0, 0, (), "secs", 0, 0.0))
    assert placement.standing == {997, 998, 999}
    assert [one.number for one in placement.older()] == [998, 997]
    placement.fall_back(998)
    assert placement.committed.number == 998
