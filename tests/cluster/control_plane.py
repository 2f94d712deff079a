"""etcd and kube-apiserver, and in a whole cluster controller-manager and scheduler."""

from __future__ import annotations

import random
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages
from tests.cluster.api import SUBMITTER, Api, write_kubeconfig
from tests.cluster.certificates import write_certificates
from tests.cluster.processes import Daemon, wait_until

SERVICES = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"
_READY_S = 120
_FIRST_PORT = 10000
_GROUPS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    SUBMITTER: "",
    "system:node:node-0": "system:nodes",
    "system:node:node-1": "system:nodes",
}


@dataclass(frozen=True)
class Place:
    """Where it runs.

    Attributes:
      address: what the apiserver listens at.
      port: of the apiserver.
      etcd_ports: for clients and for peers, on the loopback interface.
      enter: the command before each own: enters namespaces, or sees that it ends with others.
    """

    address: str = "127.0.0.1"
    port: int = 6443
    etcd_ports: tuple[int, int] = (2379, 2380)
    enter: tuple[str, ...] = ()

    @classmethod
    def on_loopback(cls, enter: tuple[str, ...] = ()) -> Place:
        """Return one on ports that are free, and stay so while it is away."""
        first, second, third = _lasting_ports(3)
        return cls(port=first, etcd_ports=(second, third), enter=enter)


def _lasting_ports(count: int) -> list[int]:
    """Find ports that nobody gets who asks for any: those are from the system's own range."""
    begin = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(_FIRST_PORT, begin), begin - _FIRST_PORT):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} ports from {_FIRST_PORT} to {begin} are free")


class ControlPlane:
    """What a cluster is without its nodes.

    Args:
      directory: for keys, state and logs.
      place: where it runs.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        self.directory, self.place = directory, place
        self.etcd = Daemon(directory, "etcd")
        self.apiserver = Daemon(directory, "kube-apiserver")
        self.controllers = Daemon(directory, "kube-controller-manager")
        self.scheduler = Daemon(directory, "kube-scheduler")

    @property
    def server(self) -> str:
        """The URL by which those beside it call it."""
        return f"https://{self.place.address}:{self.place.port}"

    def write_secrets(self) -> None:
        """Make the keys, certificates and tokens of a new cluster."""
        self.directory.mkdir(parents=True, exist_ok=True)
        addresses = {"127.0.0.1", _FIRST_SERVICE, self.place.address}
        write_certificates(self.directory, sorted(addresses))
        lines = [
            f'{secrets.token_hex(16)},{user},{user},"{groups}"' for user, groups in _GROUPS.items()
        ]
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text("\n".join(lines) + "\n")

    def start_etcd(self) -> None:
        clients, peers = (f"http://127.0.0.1:{port}" for port in self.place.etcd_ports)
        self._start(
            self.etcd,
            "etcd",
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def start_apiserver(self, *more: str) -> None:
        files, place = self.directory, self.place
        self._start(
            self.apiserver,
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{place.etcd_ports[0]}",
            f"--bind-address={place.address}",
            f"--advertise-address={place.address}",
            f"--secure-port={place.port}",
            "--insecure-port=0",
            f"--cert-dir={files}",
            f"--tls-cert-file={files}/apiserver.crt",
            f"--tls-private-key-file={files}/apiserver.key",
            f"--token-auth-file={files}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={files}/accounts.key",
            f"--service-account-signing-key-file={files}/accounts.key",
            f"--service-cluster-ip-range={SERVICES}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            "--profiling=false",
            *more,
        )

    def start_controllers(self) -> None:
        files = self.directory
        self._start(
            self.controllers,
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={files}/accounts.key",
            f"--root-ca-file={files}/ca.crt",
            "--bind-address=127.0.0.1",
            "--port=0",
        )
        self._start(
            self.scheduler,
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig('system:kube-scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--port=0",
        )

    def stop(self) -> None:
        for daemon in (self.scheduler, self.controllers, self.apiserver, self.etcd):
            daemon.kill()

    def wait_until_ready(self, api: Api) -> None:
        """Wait until the apiserver says that it is ready.

        Raises:
          RuntimeError: it has ended.
          TimeoutError: it is not ready in time.
        """

        def is_ready() -> bool:
            for daemon in (self.etcd, self.apiserver):
                if not daemon.is_running():
                    raise RuntimeError(f"{daemon.name} has ended:\n{daemon.end_of_log()}")
            return api.is_ready()

        wait_until(is_ready, "the apiserver is ready", _READY_S)

    def api(self, server: str = "") -> Api:
        """Return how an administrator calls the apiserver, by this URL."""
        return Api(server or self.server, self.authority, self.token("admin"))

    @property
    def authority(self) -> str:
        """The certificate by which the apiserver is known."""
        return (self.directory / "ca.crt").read_text()

    def token(self, user: str) -> str:
        lines = (self.directory / "tokens.csv").read_text().splitlines()
        return next(token for token, name, *_ in (li.split(",") for li in lines) if name == user)

    def kubeconfig(self, user: str) -> Path:
        """Write by what this user calls the apiserver from beside it; returns the file."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(path, self.server, self.authority, self.token(user))

    def _start(self, daemon: Daemon, *command: str) -> None:
        daemon.start([*self.place.enter, *command], packages.environment())
