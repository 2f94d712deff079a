"""Snapshots of partitions: what is restored is what was there, and nothing is lost on the way."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import closed_in_all, committed, read_manifest, verify
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from tests.checkpoints import ask, commit, contents, restore, routing_of, wait_for_writers
from tests.partitions import DENSE, IDS, MODEL, Servers
from tests.worker.lanes_harness import Job, make_batches

RULES = [
    ps_pb2.LifetimeRules(),
    ps_pb2.LifetimeRules(max_rows=128, admission_count=2),
    ps_pb2.LifetimeRules(evict_after_steps=2),
]
OPTIMIZERS = [OptimizerConfig("sgd", learning_rate=0.5), OptimizerConfig("adam", amsgrad=True)]


def model_of(rules: ps_pb2.LifetimeRules, optimizer: OptimizerConfig) -> ps_pb2.ModelDefinition:
    model = ps_pb2.ModelDefinition()
    model.CopyFrom(MODEL)
    model.tables[0].rules.CopyFrom(rules)
    model.optimizer = optimizer.to_json()
    return model


def servers_of(partitions: list[Partition], model: ps_pb2.ModelDefinition) -> Servers:
    """A client of partitions that were restored."""
    servers = Servers(len(partitions), initialize=False, model=model)
    servers.partitions = partitions
    for one, partition in zip(servers.cluster.partitions, partitions, strict=True):
        one.incarnation = partition.incarnation
    servers.client = servers.connect(servers.cluster)
    return servers


@dataclass
class Trainer:
    """Minibatches of several tasks, in an order that can be repeated."""

    sent: list[tuple[str, int, int, list[int]]] = field(default_factory=list)
    next: dict[int, int] = field(default_factory=dict)

    def draw(self, task: int, closes: bool, ids: list[int]) -> None:
        if self.next.get(task) == -1:
            return
        k = self.next.get(task, 0)
        self.sent.append(("close" if closes else "push", task, k, ids))
        self.next[task] = -1 if closes else k + 1

    def send(self, servers: Servers, first: int, end: int, to: list[int] | None = None) -> None:
        indices = range(len(servers.partitions)) if to is None else to
        for number in range(first, end):
            what, task, k, ids = self.sent[number]
            if what == "close":
                header = ps_pb2.PushHeader(
                    task=task, k=k, close=True, task_records=4 * k, emitted_records=4 * k
                )
                for index in indices:
                    servers.client.push(index, header)
                continue
            header = ps_pb2.PushHeader(task=task, k=k, epoch=task // 2, num_records=4, loss=1.0)
            lookup = servers.client.prepare([np.array(ids, np.int64)])
            rows = np.full((len(lookup.unique[0]), 3), 1.0 + number, np.float32)
            dense = np.full(287, 0.5 + number, np.float32)
            for index in indices:
                servers.client.push(index, header, lookup, [rows], dense)


minibatches = st.tuples(
    st.just("minibatch"),
    st.integers(0, 4),
    st.integers(0, 5).map(lambda n: n == 0),
    st.lists(st.integers(-40, 200), min_size=1, max_size=30),
)
actions = st.lists(
    st.one_of(
        minibatches,
        minibatches,
        minibatches,
        st.tuples(
            st.just("snapshot"),
            st.sampled_from(["whole", "increment", "increment", "abandoned", "failed"]),
            st.integers(0, 2),
        ),
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=20, deadline=None)
@given(
    rules=st.sampled_from(RULES),
    optimizer=st.sampled_from(OPTIMIZERS),
    num_partitions=st.integers(1, 3),
    restored_partitions=st.integers(1, 4),
    actions=actions,
)
def test_restored_partitions_that_are_pushed_on_are_bit_for_bit_the_undisturbed_ones(
    rules: ps_pb2.LifetimeRules,
    optimizer: OptimizerConfig,
    num_partitions: int,
    restored_partitions: int,
    actions: list[tuple],
) -> None:
    model = model_of(rules, optimizer)
    servers, trainer = Servers(num_partitions, model=model), Trainer()
    done = [0] * num_partitions  # each partition may be behind the others
    with TemporaryDirectory() as directory:
        root = Path(directory)
        number, begun = 0, None
        checkpoints: dict[int, tuple[Path, list[int], dict]] = {}
        for what, *arguments in [*actions, ("snapshot", "whole", 0), ("snapshot", "abandoned", 0)]:
            if what == "minibatch":
                trainer.draw(*arguments)
                for index in range(num_partitions - 1):
                    trainer.send(servers, done[index], len(trainer.sent), [index])
                    done[index] = len(trainer.sent)
                continue
            kind, lag = arguments
            trainer.send(servers, done[-1], max(done[-1], done[0] - lag), [num_partitions - 1])
            done[-1] = max(done[-1], done[0] - lag)
            if begun is not None:
                at, expected, base = begun
                path = commit(servers.partitions, root, number, base)
                checkpoints[number] = path, at, expected
            number += 1
            base = max(checkpoints, default=0) if kind == "increment" else 0
            if kind == "failed":
                (root / f"{number:010d}").write_text("in the way")
                for one in servers.partitions:
                    request = ps_pb2.SnapshotRequest(
                        incarnation=1, number=number, directory=str(root / f"{number:010d}")
                    )
                    one.snapshot(request)
                begun = None
                continue
            for one in servers.partitions:
                assert ask(one, root, number, base).status == ps_pb2.PS_OK
            begun = None
            if kind != "abandoned":
                begun = list(done), contents(servers.partitions), base
        trainer.send(servers, done[-1], len(trainer.sent), [num_partitions - 1])
        wait_for_writers()
        undisturbed = contents(servers.partitions)
        assert [int(path.name) for path in committed(root)] == sorted(checkpoints)
        for path, at, expected in checkpoints.values():
            assert verify(path) == []
            partitions = restore(path, restored_partitions)
            assert contents(partitions) == expected
            again = servers_of(partitions, model)
            trainer.send(again, min(at), len(trainer.sent))
            assert contents(partitions) == undisturbed
            everything = np.arange(-60, 220)
            for mine, theirs in zip(again.pull(everything), servers.pull(everything), strict=True):
                np.testing.assert_array_equal(mine, theirs)
            read = read_manifest(path)
            closed = closed_in_all(read.parts)
            assert {t for a, b in closed for t in range(a, b)} == {
                t
                for t in range(5)
                if all(t in partition.progress.closed for partition in restore(path, 1))
            }


def test_a_snapshot_is_of_one_moment_while_pushes_go_on_in_other_threads(tmp_path: Path) -> None:
    """Every row of every group has had the same number of updates, whoever pushes meanwhile."""
    model = model_of(RULES[0], OptimizerConfig("sgd", learning_rate=1.0))
    servers = Servers(2, model=model)
    ids = np.arange(30_000)
    initial = servers.pull(ids)[1]
    stopped = threading.Event()

    def train() -> None:
        k = 0
        while not stopped.is_set():
            servers.push(k, ids, 1.0, 1.0)
            k += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for number in range(1, 6):
            for one in servers.partitions:
                ask(one, tmp_path, number, base=number - 1)
            commit(servers.partitions, tmp_path, number, base=number - 1)
    finally:
        stopped.set()
        trainer.join()
    for path in committed(tmp_path):
        assert verify(path) == []
        for partition in restore(path, 2):
            updates = partition.progress.iterations
            assert len(set(updates.tolist())) == 1
            for rows_ids, rows in partition._tables[0].pages():
                expected = initial[rows_ids].copy()
                for _ in range(int(updates[0])):
                    expected -= 1.0
                np.testing.assert_array_equal(rows, expected)


def test_an_increment_of_an_incarnation_that_did_not_begin_its_base_is_whole(
    tmp_path: Path,
) -> None:
    servers = Servers(2)
    servers.push(0, IDS, 1.0, 1.0)
    for one in servers.partitions:
        ask(one, tmp_path, 1)
    first = commit(servers.partitions, tmp_path, 1)
    again = restore(first, 2)
    for one in again:
        ask(one, tmp_path, 5)  # given up
        ask(one, tmp_path, 6, base=1)
    manifest = read_manifest(commit(again, tmp_path, 6, base=1))
    assert manifest.chain == (6,)
    assert [part["base"] for part in manifest.parts] == [0, 0]


def test_rows_that_come_after_a_snapshot_or_a_restore_are_dropped(tmp_path: Path) -> None:
    servers = Servers(1)
    servers.client.load_rows("rows", np.arange(3), np.full((3, 3), 7, np.float32))
    expected = servers.pull(IDS)[1]
    ask(servers.partitions[0], tmp_path, 1)
    path = commit(servers.partitions, tmp_path, 1)
    again = servers_of(restore(path, 1), servers.layout.model)
    for late in (servers, again):
        late.client.load_rows("rows", np.arange(6), np.full((6, 3), 8, np.float32))
        np.testing.assert_array_equal(late.pull(IDS)[1], expected)


def test_a_newer_snapshot_ends_the_one_before_and_removes_its_files(tmp_path: Path) -> None:
    servers = Servers(1)
    servers.push(0, np.arange(1000), 1.0, 1.0)
    (one,) = servers.partitions
    with one._lock:  # the first one cannot get beyond its first page
        request = ps_pb2.SnapshotRequest(incarnation=1, number=1, directory=str(tmp_path / "1"))
        (tmp_path / "1").mkdir()
        assert one._snapshots.snapshot(request, 1).state == ps_pb2.SnapshotReply.WRITING
        second = ps_pb2.SnapshotRequest(incarnation=1, number=2, directory=str(tmp_path / "2"))
        (tmp_path / "2").mkdir()
        one._snapshots.snapshot(second, 1)
    wait_for_writers()
    assert list((tmp_path / "1").iterdir()) == []
    assert one.snapshot(request).status == ps_pb2.PS_SNAPSHOT_GONE
    for _ in range(2):
        reply = one.snapshot(second)
        assert (reply.status, reply.state) == (ps_pb2.PS_OK, ps_pb2.SnapshotReply.WRITTEN)
    assert one.snapshot(ps_pb2.SnapshotRequest(incarnation=1, ask=True)).version == 1


def test_requests_that_cannot_be_meant_are_refused_and_begin_nothing(tmp_path: Path) -> None:
    one = Servers(1).partitions[0]
    for wrong in ({"number": 0}, {"number": 2, "base": 2}):
        request = ps_pb2.SnapshotRequest(incarnation=1, directory=str(tmp_path), **wrong)
        assert one.snapshot(request).status == ps_pb2.PS_INVALID
    stale = ps_pb2.SnapshotRequest(incarnation=2, number=1, directory=str(tmp_path))
    assert one.snapshot(stale).status == ps_pb2.PS_STALE_INCARNATION
    empty = Partition(0, 1).snapshot(ps_pb2.SnapshotRequest(incarnation=1, number=1))
    assert empty.status == ps_pb2.PS_NOT_INITIALIZED
    assert list(tmp_path.iterdir()) == []


def test_pushes_to_a_restored_partition_by_its_own_routing_only(tmp_path: Path) -> None:
    servers = Servers(1)
    ask(servers.partitions[0], tmp_path, 1)
    path = commit(servers.partitions, tmp_path, 1)
    restored = Partition(1, 7)
    restored.restore(Source.checkpoint(path), routing_of(3))
    again = servers_of([Partition(0, 1), restored, Partition(2, 1)], servers.layout.model)
    for partition in (again.partitions[0], again.partitions[2]):
        partition.restore(Source.checkpoint(path), routing_of(3))
    again.client.initialize(DENSE + 1)  # a worker that did not know: nothing changes
    np.testing.assert_array_equal(again.pull(IDS)[0], DENSE)


@pytest.mark.parametrize(("num_partitions", "restored_partitions"), [(2, 2), (2, 3), (3, 1)])
@pytest.mark.parametrize("version", [0, 3, 8, 9, 14])
def test_in_sync_mode_a_step_is_snapshotted_and_training_goes_on_from_it(
    tmp_path: Path, num_partitions: int, restored_partitions: int, version: int
) -> None:
    rng = np.random.default_rng(version)
    epochs = [
        [[make_batches(rng, count) if count else [] for count in tasks] for tasks in lanes]
        for lanes in ([[4, 4], [3, 2, 3]], [[3, 0, 4], [6]])
    ]
    optimizer = OptimizerConfig("adam", learning_rate=0.1, global_clipnorm=0.4)
    job = Job(epochs, optimizer, num_partitions)
    for one in job.partitions:
        status = ask(one, tmp_path, 1, at_version=version).status
        assert status == (ps_pb2.PS_NOT_YET if version else ps_pb2.PS_OK)
    job.run()
    assert not job.ledger.failures
    path = commit(job.partitions, tmp_path, 1, at_version=version)
    assert read_manifest(path).steps == version
    assert ask(job.partitions[0], tmp_path, 2, at_version=5).status == ps_pb2.PS_PIN_TOO_LATE
    again = Job(epochs, optimizer, restored_partitions)
    again.partitions = restore(path, restored_partitions, incarnation=1)
    again.client = again._connect(dies=0.0)
    assert again.versions == [version] * restored_partitions
    again.run()  # Tasks that the checkpoint has closed are granted again, too.
    assert not again.ledger.failures
    assert again.versions == [15] * restored_partitions
    assert contents(again.partitions) == contents(job.partitions)
    assert again.ledger.done == job.ledger.done
