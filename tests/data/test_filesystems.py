import errno
import os
import socket
import threading
import time

import pytest

from elasticdl.data import object_stores
from elasticdl.data.filesystems import Stores, file_system, use_stores
from elasticdl.data.local_copies import local_directory, local_file
from elasticdl.errors import UsageError


@pytest.fixture(params=["local", "s3", "gcs"])
def root(request, tmp_path):
    """A directory of each kind."""
    if request.param == "local":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue(request.param).root}/root"


def test_what_is_put_is_there_as_it_is(root):
    files, whole = file_system(root)
    assert files.info(f"{whole}/a.bin") is None
    assert files.files(whole) == []
    before = time.time()
    for data in (b"", b"one", b"other", bytes(12 << 20)):
        files.put(f"{whole}/a.bin", data)
        found = files.info(f"{whole}/a.bin")
        assert found is not None
        assert (found.path, found.size) == (f"{whole}/a.bin", len(data))
        assert before - 2 < found.mtime_ns / 1e9 < time.time() + 2
        assert files.read(found.path) == data
    with files.open_input(f"{whole}/a.bin") as opened:
        assert opened.size() == 12 << 20
        assert opened.read_at(4, 7) == bytes(4)
    files.delete(f"{whole}/a.bin")
    files.delete(f"{whole}/a.bin")
    assert files.info(f"{whole}/a.bin") is None
    with pytest.raises(FileNotFoundError):
        files.read(f"{whole}/a.bin")
    with pytest.raises(FileNotFoundError):
        files.open_input(f"{whole}/none/a.bin")


def test_a_directory_is_listed_and_matched_and_deleted(root):
    files, whole = file_system(root)
    names = ["x.csv", "y.csv", "y.txt", "a/x.csv", "a/b/x.csv", "a/.hidden.csv", "a b/[1].csv"]
    for name in names:
        files.put(f"{whole}/{name}", b"1")
    assert files.files(whole) == sorted(files.files(whole), key=lambda one: one.path)
    assert [one.path for one in files.files(whole)] == sorted(f"{whole}/{one}" for one in names)
    assert [one.path for one in files.files(f"{whole}/a/b")] == [f"{whole}/a/b/x.csv"]
    assert files.info(f"{whole}/a") is None
    assert files.files(f"{whole}/y") == []
    for pattern, matches in {
        "*.csv": ["x.csv", "y.csv"],
        "[!x].*": ["y.csv", "y.txt"],
        "*/x.csv": ["a/x.csv"],
        "**/x.csv": ["a/b/x.csv", "a/x.csv", "x.csv"],
        "a/*": ["a/x.csv"],
        "a/.*": ["a/.hidden.csv"],
        "a b/*": ["a b/[1].csv"],
        "none/*": [],
    }.items():
        assert files.glob(f"{whole}/{pattern}") == [f"{whole}/{one}" for one in matches], pattern
    files.delete_directory(f"{whole}/a")
    files.delete_directory(f"{whole}/a")
    assert [one.path.removeprefix(f"{whole}/") for one in files.files(whole)] == [
        "a b/[1].csv",
        "x.csv",
        "y.csv",
        "y.txt",
    ]


def test_a_directory_is_uploaded_with_one_file_last(root, tmp_path):
    files, whole = file_system(root)
    local = tmp_path / "local"
    (local / "deep" / "er").mkdir(parents=True)
    contents = {f"deep/er/{i}": os.urandom(1000 * i) for i in range(9)} | {"a.pb": b"last"}
    for name, data in contents.items():
        (local / name).write_bytes(data)
    order = []
    put = type(files).put_file
    seen = pytest.MonkeyPatch()
    seen.setattr(type(files), "put_file", lambda self, p, f: (put(self, p, f), order.append(p)))
    with seen.context():
        files.upload(local, whole, last="a.pb")
    seen.undo()
    assert order[-1] == f"{whole}/a.pb"
    assert {one.path: files.read(one.path) for one in files.files(whole)} == {
        f"{whole}/{name}": data for name, data in contents.items()
    }


def test_an_object_in_several_pieces_is_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr(object_stores, "_PIECE_BYTES", 6 << 20)
    data = os.urandom(20 << 20)
    (tmp_path / "file").write_bytes(data)
    files, path = file_system(f"{store.root}/large.csv.gz")
    files.put_file(path, tmp_path / "file")
    assert files.read(path) == data


def test_an_upload_that_stops_leaves_the_object_that_was_there_or_none(
    store, tmp_path, monkeypatch
):
    def stop(file):
        yield b"a" * 100
        raise KeyboardInterrupt

    monkeypatch.setattr(object_stores, "_pieces", stop)
    files, path = file_system(f"{store.root}/object")
    with pytest.raises(KeyboardInterrupt):
        files.put_file(path, tmp_path / "file")
    assert files.info(path) is None


def test_what_is_wrong_is_said_in_one_line(store):
    files, whole = file_system(f"{store.root}/none")
    with pytest.raises(FileNotFoundError) as raised:
        files.read(whole)
    assert (raised.value.strerror, raised.value.filename) == (
        f"no such object at {store.endpoint}",
        whole,
    )
    nowhere = f"{store.scheme}://no-such-bucket"
    for call in (
        lambda: files.read(f"{nowhere}/a"),
        lambda: files.put(f"{nowhere}/a", b"a"),
        lambda: files.files(nowhere),
        lambda: files.glob(f"{nowhere}/*"),
    ):
        with pytest.raises(FileNotFoundError) as raised:
            call()
        assert raised.value.strerror == f"there is no bucket 'no-such-bucket' at {store.endpoint}"
    for path, why in {
        "ftp://host/a": "no such kind of place",
        "s3://": "no such kind of place",
        "s3://key:secret@bucket/a": "keys in the file that AWS_SHARED_CREDENTIALS_FILE",
    }.items():
        with pytest.raises(UsageError, match=why) as refused:
            file_system(path)
        assert "secret@" not in str(refused.value)


def _silent_port(listening):
    """A port that takes connections, or one that does not."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    if not listening:
        server.close()
        return port, None
    return port, server


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_endpoint_that_nobody_serves_is_told_soon(scheme):
    port, _ = _silent_port(False)
    endpoint = f"http://127.0.0.1:{port}"
    use_stores(Stores(endpoint, endpoint))
    try:
        files, path = file_system(f"{scheme}://bucket/a")
        began = time.monotonic()
        with pytest.raises(ConnectionError) as raised:
            files.info(path)
        assert time.monotonic() - began < object_stores.REACH_S
    finally:
        use_stores(None)
    assert raised.value.strerror == f"no answer from {endpoint} (Connection refused)"
    assert raised.value.errno == errno.ECONNABORTED


def test_a_store_that_is_back_in_time_is_waited_for(store, line):
    use_stores(Stores(line.endpoint, line.endpoint, patience_s=60))
    files, path = file_system(f"{store.root}/a")
    files.put(path, b"a")
    source = files.open_input(path)
    line.cut()
    threading.Timer(1.5, line.mend).start()
    assert source.read_at(1, 0) == b"a"
    line.cut()
    threading.Timer(1.5, line.mend).start()
    files.put(path, b"b")
    assert files.read(path) == b"b"


def test_a_store_that_is_away_is_an_error_in_time(store, line):
    use_stores(Stores(line.endpoint, line.endpoint, call_s=0.5))
    files, path = file_system(f"{store.root}/a")
    files.put(path, b"a")
    line.cut()
    for call in (
        lambda: files.put(path, b"b"),
        lambda: files.read(path),
        lambda: files.files(store.root),
    ):
        with pytest.raises(ConnectionError, match=f"no answer from {line.endpoint}"):
            call()
    line.mend()
    assert files.read(path) == b"a"


def test_a_copy_is_made_once_and_again_where_the_object_is_another(store):
    files, root = file_system(f"{store.root}/model")
    files.put(f"{root}/a/b.txt", b"1")
    files.put(f"{root}/c.txt", b"2")
    copy = local_directory(root)
    assert os.path.basename(copy) == "model"
    local, _ = file_system(copy)
    assert {one.path: local.read(one.path) for one in local.files(copy)} == {
        f"{copy}/a/b.txt": b"1",
        f"{copy}/c.txt": b"2",
    }
    assert local_directory(root) == copy
    files.put(f"{root}/c.txt", b"345")
    other = local_directory(root)
    assert other != copy
    with open(f"{other}/c.txt") as file:
        assert file.read() == "345"
    assert not os.path.exists(local_directory(f"{store.root}/nothing"))
    with open(local_file(f"{root}/c.txt")) as file:
        assert file.read() == "345"
    with pytest.raises(FileNotFoundError):
        local_file(f"{root}/none")


def test_copies_used_longest_ago_go_where_there_is_little_room(s3, monkeypatch):
    files, root = file_system(s3.root)
    copies = []
    for name in "abc":
        files.put(f"{root}/{name}", b"x" * 1000)
        copies.append(local_file(f"{root}/{name}"))
        os.utime(os.path.dirname(copies[-1]), (len(copies), len(copies)))
    local_file(f"{root}/a")  # used again
    monkeypatch.setattr("elasticdl.data.local_copies._SHARE_OF_ROOM", 0.0)
    files.put(f"{root}/d", b"x" * 1000)
    kept = local_file(f"{root}/d")
    assert [os.path.exists(one) for one in (*copies, kept)] == [False, False, False, True]
