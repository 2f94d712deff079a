"""A checkpoint is whole or not there: killed writers, full disks, damaged and hostile files."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elasticdl.errors import JobError
from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import (
    MANIFEST,
    committed,
    directory_of,
    latest,
    read_manifest,
    remove,
    remove_partial,
    verify,
)
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.ps.routing import group_of
from tests.checkpoints import ask, commit, restore, routing_of, wait_for_writers
from tests.partitions import DENSE, IDS, MODEL, Servers

REPOSITORY = Path(__file__).parents[2]
RULES = ps_pb2.LifetimeRules(admission_count=2, evict_after_steps=3)
ADAM = OptimizerConfig("adam").to_json()


def trained(num_partitions: int = 1) -> Servers:
    model = ps_pb2.ModelDefinition()
    model.CopyFrom(MODEL)
    model.optimizer = ADAM
    model.tables[0].rules.CopyFrom(RULES)
    servers = Servers(num_partitions, model=model)
    for k in range(6):
        servers.push(k, np.arange(10 * k, 10 * k + 40), 1.0, 1.0)
    return servers


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """The newest of two checkpoints, an increment on a whole one."""
    servers = trained()
    ask(servers.partitions[0], tmp_path, 1)
    commit(servers.partitions, tmp_path, 1)
    for k in range(6, 10):
        servers.push(k, np.arange(200 + k, 240 + k), 1.0, 1.0)
    ask(servers.partitions[0], tmp_path, 2, base=1)
    return commit(servers.partitions, tmp_path, 2, base=1)


def refusal(checkpoint: Path) -> str:
    """The line by which a partition refuses to be restored; it stays as it was."""
    partition = Partition(0, 2)
    with pytest.raises(JobError) as refused:
        partition.restore(Source.checkpoint(checkpoint), routing_of(1))
    assert partition._model is None
    line = str(refused.value)
    assert "\n" not in line
    assert str(checkpoint.parent) in line
    return line


def test_pyarrow_alone_reads_a_checkpoint(tmp_path: Path) -> None:
    servers = trained(2)
    for one in servers.partitions:
        ask(one, tmp_path, 3)
    checkpoint = commit(servers.partitions, tmp_path, 3)
    script = f"""
import json, pathlib, pyarrow as pa
root = pathlib.Path({str(checkpoint)!r})
manifest = json.loads((root / "manifest.json").read_text())
tables = {{}}
for part in manifest["parts"]:
    for file in part["files"]:
        table = pa.ipc.open_file(str(root / file["name"])).read_all()
        assert table.num_rows == file["rows"], file
        tables.setdefault(file["kind"], []).append(table)
rows = pa.concat_tables(tables["rows"])
dense, progress = (pa.concat_tables(tables[kind]) for kind in ("dense", "progress"))
groups = sorted(progress["group"].to_pylist())
print(json.dumps([rows.schema.names, rows.to_pylist(), dense.schema.names, groups]))
"""
    found = json.loads(subprocess.check_output([sys.executable, "-c", script], cwd="/"))
    columns, rows, dense_columns, groups = found
    assert columns == ["id", "group", "weights", "momentum", "velocity", "last_update"]
    assert dense_columns == ["variable", "offset", "group", "weights", "momentum", "velocity"]
    assert groups == list(range(64))
    ids = np.array([row["id"] for row in rows])
    weights = np.array([row["weights"] for row in rows], np.float32)
    np.testing.assert_array_equal(servers.pull(ids)[1], weights)
    assert [row["group"] for row in rows] == group_of(ids, 64).tolist()


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def damage_remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", ["rows", "dense", "progress", "candidates", "gone"])
def test_a_damaged_file_is_found_and_nothing_is_restored_from_it(
    chain: Path, damage: Callable[[Path], None], number: int, kind: str
) -> None:
    assert verify(chain) == []
    directory = directory_of(chain.parent, number)
    names = [
        one["name"] for one in read_manifest(directory).parts[0]["files"] if one["kind"] == kind
    ]
    if not names:
        assert (kind, number) == ("gone", 1)
        return
    damage(directory / names[0])
    problems = verify(chain)
    assert len(problems) == 1
    assert names[0] in problems[0]
    if number == 2 or kind in ("rows", "dense"):
        assert names[0] in refusal(chain)


def change(checkpoint: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / MANIFEST
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def of_part(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["parts"][0].update(changes)


def of_file(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["parts"][0]["files"][0].update(changes)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("parts"),
        lambda content: content.update(format=99),
        lambda content: content.update(parts=[]),
        lambda content: content.update(parts=[7]),
        lambda content: content.update(model="AAAA!"),
        lambda content: content.update(model="/////w=="),
        lambda content: content.update(routing=[0] * 63),
        lambda content: content.update(routing="x" * 64),
        lambda content: content.update(chain=[True]),
        of_part(base=2),
        of_part(base=-1),
        of_part(base=77),
        of_part(closed=[5, 4]),
        of_part(groups=[]),
        of_part(incarnation=5),
        of_part(files=[]),
        of_file(name="../1/manifest.json"),
        of_file(name="/etc/passwd"),
        of_file(name=""),
        of_file(bytes=1 << 70),
        of_file(sha256="0" * 64),
        of_file(kind="rows"),
    ],
)
def test_a_manifest_that_lies_is_refused_in_one_line(
    chain: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(chain, edit)
    refusal(chain)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00\xff"])
def test_a_manifest_that_is_none_is_refused_in_one_line(chain: Path, text: str) -> None:
    (chain / MANIFEST).write_text(text, encoding="latin-1")
    assert "manifest.json is damaged" in refusal(chain)
    assert len(verify(chain)) == 1


def test_a_model_larger_than_its_files_takes_no_memory(chain: Path) -> None:
    huge = ps_pb2.ModelDefinition()
    huge.CopyFrom(MODEL)
    huge.variables[0].shape[:] = [1 << 16, 1 << 16]
    text = base64.b64encode(huge.SerializeToString()).decode()
    change(chain, lambda content: content.update(model=text))
    assert "17,179,869,212 bytes of variables" in refusal(chain)


def test_files_of_another_shape_are_refused_though_their_sums_fit(chain: Path) -> None:
    wider = ps_pb2.ModelDefinition()
    wider.CopyFrom(MODEL)
    wider.optimizer = ADAM
    wider.tables[0].rules.CopyFrom(RULES)
    wider.tables[0].dim = 4
    text = base64.b64encode(wider.SerializeToString()).decode()
    change(chain, lambda content: content.update(model=text))
    assert "rows-0.arrow" in refusal(chain)


# ------------------------------------------------------------------------- what is there


def test_only_what_has_a_manifest_is_there_and_the_rest_can_be_removed(tmp_path: Path) -> None:
    servers = Servers(1)
    (one,) = servers.partitions
    assert (committed(tmp_path / "none"), latest(tmp_path)) == ([], None)
    for number in (3, 10, 20):
        ask(one, tmp_path, number)
        commit(servers.partitions, tmp_path, number)
    ask(one, tmp_path, 21)
    ask(one, tmp_path, 22)
    wait_for_writers()
    (tmp_path / "notes").mkdir()
    assert [path.name for path in committed(tmp_path)] == ["0000000003", "0000000010", "0000000020"]
    remove_partial(tmp_path, keep=[22])
    assert not directory_of(tmp_path, 21).exists()
    assert directory_of(tmp_path, 22).exists()
    remove(tmp_path, [3, 10])
    assert committed(tmp_path) == [directory_of(tmp_path, 20)]
    assert latest(tmp_path) == directory_of(tmp_path, 20)
    assert (tmp_path / "notes").exists()
    with pytest.raises(JobError, match="checkpoints list shows which are whole"):
        read_manifest(directory_of(tmp_path, 22))


CHILD = """
import sys, threading, time
from pathlib import Path
import numpy as np
from elasticdl.proto import ps_pb2
from tests.partitions import Servers

servers = Servers(1)
servers.push(0, np.arange(300_000), 1.0, 1.0)
(one,) = servers.partitions
directory = Path(sys.argv[1])
pages = 0
table = one._tables[0]
read = table.read_snapshot

def read_three_pages(*arguments):  # then the lock is never given back
    global pages
    pages += 1
    if pages > 3:
        # Written by another thread, some blocks behind.
        while not (directory / "p0.1-rows-0.arrow").stat().st_size:
            time.sleep(0.01)
        print("writing", flush=True)
        threading.Event().wait()
    return read(*arguments)

table.read_snapshot = read_three_pages
reply = one.snapshot(ps_pb2.SnapshotRequest(incarnation=1, number=5, directory=str(directory)))
assert reply.state == ps_pb2.SnapshotReply.WRITING
threading.Event().wait()
"""


@pytest.fixture
def writing_child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing a snapshot."""
    directory_of(tmp_path, 5).mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory_of(tmp_path, 5))],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        yield child
    finally:
        child.kill()
        child.wait()


def test_killed_while_it_writes_nothing_is_there(
    writing_child: subprocess.Popen[str], tmp_path: Path
) -> None:
    os.kill(writing_child.pid, signal.SIGKILL)
    assert writing_child.wait() == -signal.SIGKILL
    rows = directory_of(tmp_path, 5) / "p0.1-rows-0.arrow"
    assert rows.stat().st_size > 0, "it was writing"
    assert committed(tmp_path) == []
    with pytest.raises(JobError, match="no readable manifest"):
        read_manifest(directory_of(tmp_path, 5))
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_fails_the_snapshot_and_leaves_the_partition_unharmed(
    small_disk: Path,
) -> None:
    servers = Servers(1)
    (one,) = servers.partitions
    ask(one, small_disk, 1)
    first = commit(servers.partitions, small_disk, 1)
    servers.push(0, np.arange(50_000), 1.0, 1.0)
    ask(one, small_disk, 2, base=1)
    servers.push(1, IDS, 1.0, 1.0)
    wait_for_writers()
    for _ in range(2):
        reply = ask(one, small_disk, 2, base=1)
        assert reply.state == ps_pb2.SnapshotReply.FAILED
        assert reply.message == (
            f"checkpoint '{directory_of(small_disk, 2)}': cannot be written "
            "(No space left on device)"
        )
    assert list(directory_of(small_disk, 2).iterdir()) == [], "it takes no more room"
    assert one._tables[0].num_bytes < 50_000 * 100, "no image is kept"
    assert committed(small_disk) == [first]
    # What changed before the failed one is in the next one on the same base.
    elsewhere = small_disk.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / first.name).symlink_to(first)
    ask(one, elsewhere, 3, base=1)
    path = commit(servers.partitions, elsewhere, 3, base=1)
    assert read_manifest(path).chain == (1, 3)
    ids = np.arange(-10, 50_000)
    (restored,) = restore(path, 1, incarnation=1)
    again = Servers(1, initialize=False)
    again.partitions[:] = [restored]
    again.client = again.connect(again.cluster)
    for mine, theirs in zip(again.pull(ids), servers.pull(ids), strict=True):
        np.testing.assert_array_equal(mine, theirs)


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from elasticdl.proto import ps_pb2
from tests.checkpoints import ask, wait_for_writers
from tests.partitions import Servers

servers = Servers(1)
servers.push(0, np.arange(30_000), 1.0, 1.0)
before = servers.pull(np.arange(100))[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
ask(servers.partitions[0], Path(sys.argv[1]), 1)
wait_for_writers()
reply = ask(servers.partitions[0], Path(sys.argv[1]), 1)
assert reply.state == ps_pb2.SnapshotReply.FAILED
assert (servers.pull(np.arange(100))[1] == before).all()
servers.push(1, np.arange(100), 1.0, 1.0)
print(reply.message)
"""


def test_a_file_that_may_not_grow_fails_the_snapshot(tmp_path: Path) -> None:
    line = subprocess.check_output(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=REPOSITORY, text=True
    )
    assert line == f"checkpoint '{directory_of(tmp_path, 1)}': cannot be written (File too large)\n"
    assert list(directory_of(tmp_path, 1).iterdir()) == []


def test_a_directory_that_is_not_there_fails_the_snapshot(tmp_path: Path) -> None:
    (one,) = Servers(1).partitions
    request = ps_pb2.SnapshotRequest(incarnation=1, number=1, directory=str(tmp_path / "none"))
    one.snapshot(request)
    wait_for_writers()
    reply = one.snapshot(request)
    assert reply.state == ps_pb2.SnapshotReply.FAILED
    assert "No such file or directory" in reply.message
    ask(one, tmp_path, 2)
    assert np.array_equal(restore(commit([one], tmp_path, 2), 1)[0]._dense.values(), DENSE[:287])
