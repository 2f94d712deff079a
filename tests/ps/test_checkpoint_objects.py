"""Checkpoints at object stores: as whole, as exact and as loud as those of directories."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from elasticdl.api import checkpoints as commands
from elasticdl.data.filesystems import file_system
from elasticdl.errors import JobError
from elasticdl.model.warm_start import check_warm_start, open_warm_start
from elasticdl.proto import ps_pb2
from elasticdl.ps.checkpoint_audit import audits_of
from elasticdl.ps.manifest import (
    MANIFEST,
    committed,
    directory_of,
    is_checkpoint,
    numbers_in,
    read_manifest,
    remove,
    remove_partial,
    verify,
)
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from tests.checkpoints import ask, commit, contents, restore, routing_of, wait_for_writers
from tests.partitions import Servers

DEADLINE_S = 60.0


def begin(servers: Servers, root: Any, number: int, base: int = 0) -> None:
    for partition in servers.partitions:
        ask(partition, root, number, base)


@pytest.fixture
def servers() -> Servers:
    made = Servers(2)
    for k in range(6):
        made.push(k, np.arange(10 * k, 10 * k + 40), 1.0, 1.0)
    return made


def test_what_was_put_is_restored_bit_for_bit_on_any_number_of_partitions(store, servers, tmp_path):
    root = f"{store.root}/job/checkpoints"
    for number, base in ((1, 0), (2, 1)):
        begin(servers, root, number, base)
        last = commit(servers.partitions, root, number, base)
        servers.push(5 + number, np.arange(200, 260), 1.0, 1.0)
        begin(servers, tmp_path, number)
    assert last == f"{root}/0000000002"
    assert [path.rpartition("/")[2] for path in committed(root)] == ["0000000001", "0000000002"]
    assert read_manifest(last).chain == (1, 2)
    assert verify(last) == []
    kept = [restore(last, n) for n in (1, 3)]
    assert contents(kept[0]) == contents(kept[1])
    begin(servers, root, 3)
    whole = commit(servers.partitions, root, 3)
    assert contents(restore(whole, 2)) == contents(servers.partitions)
    assert len(audits_of(whole)) == 2


def test_what_is_restored_from_objects_is_what_is_restored_from_files(store, servers, tmp_path):
    root = f"{store.root}/job/checkpoints"
    begin(servers, tmp_path, 1)
    from_files = contents(restore(commit(servers.partitions, tmp_path, 1), 2))
    begin(servers, root, 2)
    checkpoint = commit(servers.partitions, root, 2)
    assert contents(restore(checkpoint, 2)) == from_files
    check_warm_start(checkpoint)
    warm = open_warm_start(checkpoint)
    files = open_warm_start(str(directory_of(tmp_path, 1)))
    (table,) = warm.tables
    rows = [np.concatenate(column) for column in zip(*warm.rows(table), strict=True)]
    expected = [np.concatenate(column) for column in zip(*files.rows(table), strict=True)]
    for ours, theirs in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, value in files.dense().items():
        np.testing.assert_array_equal(warm.dense()[name], value)


def test_the_commands_show_those_of_a_store(store, servers):
    root = f"{store.root}/job/checkpoints"
    begin(servers, root, 1)
    checkpoint = commit(servers.partitions, root, 1)
    (row,) = commands.list_checkpoints(root)
    assert (row["number"], row["state"], row["directory"]) == (1, "complete", checkpoint)
    begin(servers, f"{root}/", 2, 1)
    last = commit(servers.partitions, f"{root}/", 2, 1)
    found = commands.inspect_checkpoint(f"{last}/")
    assert (found["number"], found["partitions"], found["builds_on"]) == (2, 2, [checkpoint])
    assert commands.verify_checkpoints(f"{root}/") == [
        {"directory": each, "problems": []} for each in (checkpoint, f"{root}/0000000002")
    ]


def test_what_is_damaged_or_missing_at_a_store_is_found_and_not_restored(store, servers):
    root = f"{store.root}/job/checkpoints"
    begin(servers, root, 1)
    checkpoint = commit(servers.partitions, root, 1)
    name = next(
        one["name"] for one in read_manifest(checkpoint).parts[0]["files"] if one["kind"] == "dense"
    )
    files, path = file_system(f"{checkpoint}/{name}")
    data = bytearray(files.read(path))
    data[len(data) // 2] ^= 0x10
    files.put(path, bytes(data))
    (problem,) = verify(checkpoint)
    assert f"checkpoint '{checkpoint}': {name} is damaged" in problem
    with pytest.raises(JobError, match=name):
        Partition(0, 2).restore(Source.checkpoint(checkpoint), routing_of(1))
    files.delete(path)
    with pytest.raises(JobError, match=f"{name} is missing"):
        read_manifest(checkpoint)
    files.put(f"{checkpoint}/{MANIFEST}", b"{")
    assert "manifest.json is damaged" in verify(checkpoint)[0]


def test_only_what_has_a_manifest_is_there_and_the_rest_can_be_removed(store, servers):
    root = f"{store.root}/job/checkpoints"
    assert (committed(root), numbers_in(root)) == ([], [])
    for number in (3, 4):
        begin(servers, root, number)
        commit(servers.partitions, root, number)
    begin(servers, root, 5)
    wait_for_writers()
    file_system(root)[0].put(f"{root}/notes/x", b"1")
    assert numbers_in(root) == [3, 4, 5]
    assert not is_checkpoint(directory_of(root, 5))
    remove_partial(root)
    remove(root, [3])
    assert numbers_in(root) == [4]
    assert committed(root) == [directory_of(root, 4)]
    left = [one.path for one in file_system(root)[0].files(root)]
    assert all("/0000000004/" in one or "/notes/" in one for one in left)


def test_while_the_store_is_away_a_snapshot_fails_and_what_is_there_is_not_called_damaged(
    store, servers
):
    root = f"{store.root}/job/checkpoints"
    begin(servers, root, 1)
    checkpoint = commit(servers.partitions, root, 1)
    before = contents(servers.partitions)
    (one, *_) = servers.partitions
    store.hurry()
    line = store.server.line
    line.cut()
    try:
        ask(one, root, 2)
        wait_for_writers()
        with pytest.raises(ConnectionError):
            verify(checkpoint)
    finally:
        line.mend()
    reply = ask(one, root, 2)
    assert reply.state == ps_pb2.SnapshotReply.FAILED
    assert reply.store_is_away
    assert f"checkpoint '{root}/0000000002': cannot be written" in reply.message
    assert contents(servers.partitions) == before
    assert committed(root) == [checkpoint]
    begin(servers, root, 3)
    assert verify(commit(servers.partitions, root, 3)) == []


def test_restoring_waits_for_a_store_that_is_away(store, servers):
    root = f"{store.root}/job/checkpoints"
    begin(servers, root, 1)
    checkpoint = commit(servers.partitions, root, 1)
    source = Source.checkpoint(checkpoint)
    store.hurry(patience_s=DEADLINE_S)
    line = store.server.line
    line.cut()
    mending = threading.Timer(1.0, line.mend)
    mending.start()
    try:
        began = time.monotonic()
        partition = Partition(0, 2)
        partition.restore(source, routing_of(1))
    finally:
        mending.join()
        line.mend()
    assert time.monotonic() - began >= 1.0
    assert contents([partition]) == contents(restore(checkpoint, 1))


def test_a_store_that_is_slow_has_a_snapshot_written_while_pushes_go_on(store, servers):
    root = f"{store.root}/job/checkpoints"
    store.server.line.delay(0.1)
    try:
        begin(servers, root, 1)
        servers.push(6, np.arange(300, 340), 1.0, 1.0)
        assert any(thread.name == "snapshot" for thread in threading.enumerate())
        checkpoint = commit(servers.partitions, root, 1)
    finally:
        store.server.line.mend()
    assert verify(checkpoint) == []
    versions = {part["version"] for part in read_manifest(checkpoint).parts}
    assert max(versions) == 6, json.dumps(sorted(versions))
