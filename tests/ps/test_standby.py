"""A partition's copy: what is restored from it is what was there, whatever went on meanwhile."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.errors import JobError
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import standby
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.rpc import RpcUnavailable
from tests.checkpoints import ask, commit, contents, restore, routing_of, wait_for_writers
from tests.partitions import Servers
from tests.ps.test_snapshots import OPTIMIZERS, RULES, Trainer, minibatches, model_of, servers_of
from tests.standbys import Standbys

ADAM = model_of(RULES[0], OptimizerConfig("adam"))
ROUTING = routing_of(2)
ROWS = 20_000

copies = st.tuples(
    st.just("copy"), st.integers(0, 60), st.one_of(minibatches, st.just("a checkpoint"))
)
actions = st.lists(
    st.one_of(
        minibatches,
        minibatches,
        minibatches,
        copies,
        copies,
        st.tuples(st.just("snapshot"), st.sampled_from(["whole", "increment", "abandoned"])),
        st.tuples(st.just("keeper lost"), st.integers(0, 2)),
    ),
    min_size=3,
    max_size=40,
)


class Played:
    """Partitions that are trained, copied and written into checkpoints, in this thread.

    Attributes:
      copied: by partition, what it was when its copy that counts was begun, and how many messages
        had been sent by then.
      committed: by number, each checkpoint and what it is of.
    """

    def __init__(self, num_partitions: int, model: ps_pb2.ModelDefinition, root: Path) -> None:
        self.servers, self.trainer = Servers(num_partitions, model=model), Trainer()
        self.standbys = Standbys(self.servers.partitions)
        self.copied: dict[int, tuple[dict, int]] = {}
        self.committed: dict[int, tuple[Path, dict]] = {}
        self._root = root
        self._number, self._sent, self._lives = 0, 0, 1

    def minibatch(self, task: int, closes: bool, ids: list[int]) -> None:
        self.trainer.draw(task, closes, ids)
        self.trainer.send(self.servers, self._sent, len(self.trainer.sent))
        self._sent = len(self.trainer.sent)

    def snapshot(self, kind: str) -> None:
        self._number += 1
        base = max(self.committed, default=0) if kind == "increment" else 0
        for one in self.servers.partitions:
            assert ask(one, self._root, self._number, base).status == ps_pb2.PS_OK
        begun = contents(self.servers.partitions)
        if kind != "abandoned":
            path = commit(self.servers.partitions, self._root, self._number, base)
            self.committed[self._number] = path, begun

    def copy(self, at_call: int, meanwhile: object) -> None:
        """Copy every partition; before one of the calls something happens."""
        wait_for_writers()
        calls = 0

        def hook(path: str) -> None:
            nonlocal calls
            calls += 1
            if calls == at_call:
                if isinstance(meanwhile, tuple):
                    self.minibatch(*meanwhile[1:])
                else:
                    self.snapshot("abandoned")

        self.standbys.hook = hook
        for index, one in enumerate(self.servers.partitions):
            before, kept = (contents([one]), self._sent), self.standbys.kept(index)
            self.standbys.standbys[index].copy()
            if self.standbys.kept(index) != kept:
                self.copied[index] = before
        self.standbys.hook = lambda path: None

    def lose_keeper(self, index: int) -> None:
        self._lives += 1
        index %= len(self.servers.partitions)
        self.standbys.replace(index, self._lives)
        self.copied.pop((index - 1) % len(self.servers.partitions), None)


@settings(max_examples=20, deadline=None)
@given(
    rules=st.sampled_from(RULES),
    optimizer=st.sampled_from(OPTIMIZERS),
    num_partitions=st.integers(2, 3),
    actions=actions,
)
def test_partitions_restored_from_copies_are_bit_for_bit_those_that_were_copied(
    rules: ps_pb2.LifetimeRules,
    optimizer: OptimizerConfig,
    num_partitions: int,
    actions: list[tuple],
) -> None:
    """Also where minibatches come, or a checkpoint is begun, while a copy is on its way."""
    model, routing = model_of(rules, optimizer), routing_of(num_partitions)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(standby, "CHUNK_BYTES", 3000)
        played = Played(num_partitions, model, Path(directory))
        played.snapshot("whole")
        do = {
            "minibatch": played.minibatch,
            "snapshot": played.snapshot,
            "copy": played.copy,
            "keeper lost": played.lose_keeper,
        }
        for what, *arguments in actions:
            do[what](*arguments)
        if len(played.copied) < num_partitions:
            played.copy(0, None)
        wait_for_writers()
        partitions = [played.standbys.restored(i, routing) for i in range(num_partitions)]
        for index, (expected, _) in played.copied.items():
            assert contents([partitions[index]]) == expected
        again = servers_of(partitions, model)
        first = min(sent for _, sent in played.copied.values())
        played.trainer.send(again, first, len(played.trainer.sent))
        assert contents(partitions) == contents(played.servers.partitions)
        for path, expected in played.committed.values():
            assert contents(restore(path, num_partitions)) == expected


@pytest.fixture
def played(tmp_path: Path) -> Played:
    """Two partitions with some rows and a checkpoint."""
    played = Played(2, ADAM, tmp_path)
    played.minibatch(1, False, list(range(ROWS)))
    played.snapshot("whole")
    wait_for_writers()
    return played


def test_before_the_first_checkpoint_there_is_no_copy(tmp_path: Path) -> None:
    assert Partition(0, 1).begin_copy(0) is None, "nor before initial values"
    played = Played(2, ADAM, tmp_path)
    played.minibatch(1, False, [1, 2])
    played.copy(0, None)
    assert played.standbys.kept(0) == []


def test_a_copy_follows_by_what_changed_until_that_outweighs_the_whole(played: Played) -> None:
    sizes = []
    for _ in range(2 + standby.MOST_INCREMENTS):
        played.minibatch(1, False, [5, 6, 7])
        assert played.standbys.copy()
        (*_, newest) = played.standbys.copies[1]._kept[0].parts
        sizes.append((newest.base > 0, sum(len(one) for one in newest.files.values())))
    whole = sizes[0][1]
    assert [is_increment for is_increment, _ in sizes] == [
        False,
        *[True] * standby.MOST_INCREMENTS,
        False,
    ]
    assert all(size < whole / 2 for is_increment, size in sizes if is_increment)
    played.minibatch(1, False, list(range(ROWS)))
    assert played.standbys.copy()
    assert len(played.standbys.kept(0)) == 2
    played.minibatch(1, False, list(range(100)))
    assert played.standbys.copy()
    assert len(played.standbys.kept(0)) in (1, 3)
    assert played.standbys.copy()
    assert contents([played.standbys.restored(0, ROUTING)]) == contents(
        [played.servers.partitions[0]]
    )


def test_a_keeper_that_lacks_the_base_is_sent_all_of_it(played: Played) -> None:
    assert played.standbys.copy()
    played.standbys.copies[1]._kept.clear()
    played.minibatch(1, False, [5])
    assert played.standbys.copy(), "it is told so, and goes on"
    assert played.standbys.kept(0) == []
    assert played.standbys.copy()
    ((_, base),) = played.standbys.kept(0)
    assert base == 0


def test_the_copy_before_stays_until_a_whole_one_is_there(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "CALL_S", 0.1)
    assert played.standbys.copy()
    before, kept = contents([played.servers.partitions[0]]), played.standbys.kept(0)
    for _ in range(2):
        played.minibatch(1, False, list(range(ROWS)))
        keeper = played.standbys.standbys[0]._keeper
        assert keeper is not None
        keeper.forget()  # The next is whole.
        calls = 0

        def lose(path: str) -> None:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise RpcUnavailable(path)

        played.standbys.hook = lose
        assert not played.standbys.standbys[0].copy()
        played.standbys.hook = lambda path: None
        assert played.standbys.kept(0) == kept
        assert contents([played.standbys.restored(0, ROUTING)]) == before


def test_a_copy_waits_while_a_checkpoint_is_written_and_is_given_up_when_one_begins(
    played: Played,
) -> None:
    assert played.standbys.copy()
    kept = played.standbys.kept(0)
    played.minibatch(1, False, list(range(ROWS)))
    played.copy(1, "a checkpoint")
    assert played.standbys.kept(0) == kept
    wait_for_writers()
    partition = played.servers.partitions[0]
    lock = partition._lock
    with lock:  # So that it is not written before this was looked at.
        request = ps_pb2.SnapshotRequest(incarnation=1, number=9, directory=str(played._root))
        partition._snapshots.snapshot(request, 0)
        assert partition._snapshots.begin_copy(0, 0) is None
    wait_for_writers()
    assert partition.snapshot(request).state == ps_pb2.SnapshotReply.WRITTEN
    assert played.standbys.copy()


def test_what_a_copy_goes_beyond_is_what_had_begun_or_was_restored_when_it_was_taken(
    played: Played,
) -> None:
    def goes_beyond(standbys: Standbys, life: int = 1) -> int:
        return standbys.fetch(0, ROUTING, life=life).newest_checkpoint

    assert played.standbys.copy()
    assert goes_beyond(played.standbys) == 1
    played.snapshot("whole")
    wait_for_writers()
    assert goes_beyond(played.standbys) == 1, "the copy is of before"
    assert played.standbys.copy()
    assert goes_beyond(played.standbys) == 2
    again = Partition(0, 2)
    again.restore(played.standbys.fetch(0, ROUTING, 2, life=2), ROUTING)
    later = Standbys([again, played.servers.partitions[1]])
    later.copies = played.standbys.copies
    assert later.copy()
    assert goes_beyond(later, life=2) == 2


def test_a_copy_that_lacks_the_checkpoint_or_is_of_another_routing_is_not_restored(
    played: Played,
) -> None:
    assert played.standbys.copy()
    with pytest.raises(
        JobError, match=r"its copy on parameter server 1 is older than checkpoint 2"
    ):
        played.standbys.fetch(0, ROUTING, number=2)
    other = routing_of(2)
    other.version += 1
    with pytest.raises(JobError, match="is of routing version 0"):
        played.standbys.fetch(0, other, number=1)
    played.standbys.replace(1, 2)
    with pytest.raises(JobError, match="there is none"):
        played.standbys.fetch(0, ROUTING, number=1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["rows", "dense", "progress"])
def test_a_damaged_copy_is_found_before_anything_is_restored_from_it(
    played: Played, damage: str, number: int, kind: str
) -> None:
    assert played.standbys.copy()
    played.minibatch(1, False, [5, 6, 7])
    assert played.standbys.copy()
    files = played.standbys.copies[1]._kept[0].parts[number].files
    (name,) = [name for name in files if f"-{kind}" in name]
    if damage == "flip":
        files[name][len(files[name]) // 2] ^= 0x10
    elif damage == "truncate":
        del files[name][-7:]
    else:
        del files[name]
    partition = played.servers.partitions[0]
    before = contents([partition])
    with pytest.raises(JobError, match="its copy on parameter server 1: ") as error:
        partition.restore(played.standbys.fetch(0, ROUTING), ROUTING)
    assert len(str(error.value).splitlines()) == 1
    assert contents([partition]) == before


def test_a_partition_without_a_live_keeper_goes_on_and_says_so_once(
    played: Played, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "CALL_S", 0.1)
    caplog.set_level("INFO")

    def away(path: str) -> None:
        raise RpcUnavailable("nobody is there")

    mine = played.standbys.standbys[0]
    for hook in (lambda path: None, away):
        played.standbys.hook = hook
        for _ in range(3):
            played.minibatch(1, False, [5, 6, 7])
            assert mine.copy() == (hook is not away)
    played.standbys.hook = lambda path: None
    assert mine.copy()
    said = [one.getMessage() for one in caplog.records if one.name == standby.__name__]
    assert [line.split(":")[0] for line in said] == [
        "parameter server 1 keeps a copy of it",
        "its copy is not kept (any more); it will be tried again",
        "parameter server 1 keeps a copy of it",
    ]


def test_the_last_partition_is_kept_by_the_first_and_a_single_one_by_nobody() -> None:
    servers = [master_pb2.Partition(index=index) for index in range(3)]
    cluster = master_pb2.Cluster(partitions=servers)
    assert [standby.keeper_of(i, cluster).index for i in range(3)] == [1, 2, 0]
    assert standby.keeper_of(0, master_pb2.Cluster(partitions=servers[:1])) is None


def test_an_increment_holds_only_the_rows_that_changed_whatever_checkpoints_came_between(
    played: Played,
) -> None:
    assert played.standbys.copy()
    played.minibatch(1, False, [5, 6, 7])
    for _ in range(2):
        played.snapshot("increment")
        wait_for_writers()
    played.minibatch(1, False, [8])
    assert played.standbys.copy()
    found = []
    for index in range(2):
        (chain,) = played.standbys.fetch(index, ROUTING).chains
        for file in chain[-1].files("rows"):
            import pyarrow as pa

            found += pa.ipc.open_file(file.open()).read_all()["id"].to_pylist()
    assert sorted(found) == [5, 6, 7, 8]
    assert np.all(np.array([len(played.standbys.kept(i)) for i in range(2)]) == 2)
