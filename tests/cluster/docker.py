"""A Docker engine of its own, a registry, and a small image to build upon.

Both run in directories that are given to them; what the engine has pulled and built stays in the
cache, so that a layer is made once on a machine. Nothing is installed, and no other engine is used.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from tests.cluster import packages
from tests.cluster.packages import CACHE, NotHere
from tests.cluster.processes import Daemon, wait_until

ENGINE = ["docker.io", "containerd", "runc", "tini", "libseccomp2"]
REGISTRY = ["docker-registry"]
DATA = CACHE / "docker"
"""What the engine keeps: one engine at a time has it."""
BASE = "elasticdl-test-base:1"
"""Debian with Python and pip, and nothing else."""
_BASE_ARCHIVE = CACHE / "base-image-1.tar"
_BASE_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_MOST_BYTES = 20 << 30
_START_S = 60
_BASE_S = 900
_IN_THE_BACKGROUND = ("setpriv", "--pdeathsig", "KILL", "--")


def check_root() -> None:
    """Raises:
    NotHere: an engine cannot run here.
    """
    if os.name != "posix" or os.uname().sysname != "Linux" or os.geteuid() != 0:
        raise NotHere("a Docker engine of the tests' own needs root on Linux")
    if shutil.which("setpriv") is None:
        raise NotHere("no setpriv here: apt-get install util-linux")


class Engine:
    """A Docker engine that shares nothing with another: neither data, nor sockets, nor networks.

    Start it from the thread that lives on: it ends with that thread.

    Args:
      directory: for its configuration, its socket and its log; a short path.
      insecure: networks whose registries are without TLS, besides the loopback interface's.
    """

    def __init__(self, directory: Path, insecure: Sequence[str] = ()) -> None:
        self.directory, self._insecure = directory, [*insecure, "127.0.0.0/8"]
        self.address = f"unix://{directory / 'docker.sock'}"
        self._daemon = Daemon(directory, "dockerd")
        self._lock = packages.lock("docker")

    def start(self) -> None:
        """Start it, and wait until it answers: about a second.

        Raises:
          NotHere: it cannot run here.
        """
        check_root()
        root = packages.unpack(*ENGINE)
        self._lock.__enter__()
        if _size(DATA) > _MOST_BYTES:
            shutil.rmtree(DATA)
        configuration = {
            "data-root": str(DATA),
            "exec-root": str(self.directory / "exec"),
            "pidfile": str(self.directory / "docker.pid"),
            "hosts": [self.address],
            "bridge": "none",
            "iptables": False,
            "ip-forward": False,
            "ip-masq": False,
            "storage-driver": "overlay2",
            "insecure-registries": self._insecure,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "shutdown-timeout": 5,
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "daemon.json"
        file.write_text(json.dumps(configuration))
        environment = {**packages.environment(), "HOME": str(self.directory)}
        command = [*_IN_THE_BACKGROUND, root / "usr/sbin/dockerd", f"--config-file={file}"]
        self._daemon.start(command, environment)
        wait_until(lambda: self._answers() or not self._daemon.is_running(), "dockerd", _START_S)
        if not self._daemon.is_running():
            said = self._daemon.end_of_log()
            self.stop()
            raise NotHere(f"dockerd does not run here; the end of its log:\n{said}")

    def client(self) -> docker.DockerClient:
        """A client of it; whoever asks closes it."""
        return docker.DockerClient(base_url=self.address, timeout=60)

    def stop(self) -> None:
        """End it, its containers and what they had mounted; images stay in the cache."""
        try:
            if self._daemon.is_running():
                with_client = self.client()
                for container in with_client.containers.list(all=True):
                    container.remove(force=True)
                with_client.close()
        except DockerException:
            pass  # It does not answer: its containers end with it.
        finally:
            try:
                self._daemon.kill(signal.SIGTERM)
            except TimeoutError:
                self._daemon.kill()
            _unmount_below(self.directory)
            _unmount_below(DATA)
            self._lock.__exit__(None, None, None)

    def base_image(self) -> str:
        """Have `BASE`; returns its name."""
        client = self.client()
        try:
            client.images.get(BASE)
        except ImageNotFound:
            changes = [f"ENV PIP_CERT={_CERTIFICATES}", f"ENV SSL_CERT_FILE={_CERTIFICATES}"]
            repository, tag = BASE.split(":")
            client.api.import_image(
                str(_base_archive()), repository=repository, tag=tag, changes=changes
            )
        finally:
            client.close()
        return BASE

    def _answers(self) -> bool:
        try:
            client = self.client()
            try:
                return bool(client.ping())
            finally:
                client.close()
        except (DockerException, OSError):
            return False


class Registry:
    """A registry of images, without TLS.

    Args:
      directory: for what is pushed, and its log.
      host: the address that it listens at.
      port: 0 for one that is free.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.directory = directory
        self.address = f"{host}:{port or _free_port(host)}"
        self._daemon = Daemon(directory, "registry")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        root = packages.unpack(*REGISTRY)
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "registry.yml"
        file.write_text(
            "version: 0.1\nlog:\n  level: warn\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.directory / 'pushed'}\n"
            f"  delete:\n    enabled: true\nhttp:\n  addr: {self.address}\n"
        )
        program = root / "usr/bin/docker-registry"
        command = [*_IN_THE_BACKGROUND, program, "serve", file]
        self._daemon.start(command, packages.environment())
        wait_until(self._answers, "the registry", _START_S)

    def stop(self) -> None:
        self._daemon.kill()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _base_archive() -> Path:
    """Debian's smallest system with Python, as an archive: made once on a machine, in a minute."""
    root = packages.unpack("debootstrap")
    with packages.lock("base-image"):
        if _BASE_ARCHIVE.exists():
            return _BASE_ARCHIVE
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="base-image-") as made:
            tree = Path(made, "tree")
            environment = {
                **packages.environment(),
                "DEBOOTSTRAP_DIR": str(root / "usr/share/debootstrap"),
                "HOME": made,
            }
            script = root / "usr/sbin/debootstrap"
            options = ["--variant=minbase", f"--include={_BASE_PACKAGES}"]
            subprocess.run(
                ["sh", script, *options, packages.RELEASE, tree, "http://deb.debian.org/debian"],
                env=environment,
                check=True,
                timeout=_BASE_S,
            )
            shutil.rmtree(tree / "var/cache/apt/archives")
            shutil.rmtree(tree / "var/lib/apt/lists")
            if _CERTIFICATES.exists():  # Of whoever stands between this machine and the indexes.
                shutil.copyfile(_CERTIFICATES, tree / _CERTIFICATES.relative_to("/"))
            archive = Path(made, "base.tar")
            with tarfile.open(archive, "w") as tar:
                tar.add(tree, arcname=".")
            archive.rename(_BASE_ARCHIVE)
    return _BASE_ARCHIVE


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listening:
        return listening.getsockname()[1]


def _size(directory: Path) -> int:
    if not directory.exists():
        return 0
    said = subprocess.run(
        ["du", "--summarize", "--bytes", directory], capture_output=True, text=True, check=False
    )
    return int(said.stdout.split()[0]) if said.stdout else 0


def _unmount_below(directory: Path) -> None:
    """Unmount what an engine that was killed left mounted."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((one for one in points if one.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
