"""What was recorded on its way and is sent again has no effect, and is counted."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elasticdl.credentials import Credentials
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import ParameterClient, StaleCluster
from elasticdl.ps.partition import Partition
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc import Service, StreamServer, StreamTransport
from tests.partitions import DENSE, DESCRIPTOR, IDS, Servers
from tests.rpc.certified import JOB, certified
from tests.rpc.test_called_twice import WORKER_ID, MasterWorld
from tests.rpc.test_streams import DEADLINE_S, until


class Tap:
    """Stands between a client and a server, and records what the client says.

    Attributes:
      address: of it.
      heard: of each connection.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = host, int(port)
        self._listening = socket.create_server(("127.0.0.2", 0))
        self.address = f"127.0.0.2:{self._listening.getsockname()[1]}"
        self.heard: list[bytearray] = []
        self._sockets = [self._listening]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, what: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=what, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self.heard.append(bytearray())
                self._start(self._copy, client, server, self.heard[-1])
                self._start(self._copy, server, client, bytearray())

    def _copy(self, source: socket.socket, target: socket.socket, heard: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                heard += data
                target.sendall(data)

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)


@pytest.fixture(params=["plain", "tls"])
def credentials(request) -> tuple[Credentials, Credentials]:
    """Of the parameter server and of the worker."""
    if request.param == "tls":
        return certified("ps"), certified("worker")
    return (Credentials("secret", JOB),) * 2


@pytest.fixture
def partition() -> Partition:
    return Partition(0, 1)


@pytest.fixture
def tap(credentials, partition) -> Iterator[Tap]:
    server = StreamServer([Service(DESCRIPTOR, partition)], credentials[0], "127.0.0.2:0")
    one = Tap(server.address)
    yield one
    one.close()
    server.stop()


def client_of(tap: Tap, credentials: Credentials, incarnation: int = 1) -> ParameterClient:
    servers = Servers(num_partitions=1, initialize=False)
    (one,) = servers.cluster.partitions
    one.incarnation = incarnation
    return ParameterClient(
        servers.cluster, lambda _: StreamTransport(tap.address, credentials), servers.layout
    )


def push(client: ParameterClient, k: int) -> None:
    lookup = client.prepare([IDS])
    rows = np.ones((len(lookup.unique[0]), 3), np.float32)
    header = ps_pb2.PushHeader(task=9, k=k, num_records=4, loss=1.0)
    client.push(0, header, lookup, [rows], np.ones(287, np.float32))


def test_a_recorded_push_changes_nothing_when_it_is_sent_again(tap, credentials, partition):
    client = client_of(tap, credentials[1])
    client.initialize(DENSE)
    push(client, 0)
    push(client, 1)
    client.close()
    (heard,) = [bytes(one) for one in tap.heard]
    audit = partition.get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert list(audit.applied_minibatches) == [2] * 64
    version = partition.counts().pushes
    before = dict(REFUSALS.counts())

    host, _, port = tap.address.rpartition(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(heard)
        peer.settimeout(DEADLINE_S)
        if credentials[1].tls is None:
            until(lambda: partition.counts().pushes == version + 2)
        else:
            with contextlib.suppress(OSError):
                while peer.recv(1 << 16):
                    pass
            until(lambda: REFUSALS.counts() != before)

    after = partition.get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert list(after.applied_minibatches) == [2] * 64
    assert list(after.applied_records) == list(audit.applied_records)
    counted = {reason: REFUSALS.counts()[reason] - before[reason] for reason in Reason}
    if credentials[1].tls is None:
        until(lambda: REFUSALS.counts()[Reason.REPLAYED] == before[Reason.REPLAYED] + 2)
    else:
        # Of what was recorded nobody gets past the handshake: its keys are of one connection.
        assert counted == dict.fromkeys(Reason, 0) | {Reason.UNAUTHENTICATED: 1}
        assert partition.counts().pushes == version


def test_what_was_meant_for_an_earlier_life_is_refused_and_counted(tap, credentials, partition):
    client_of(tap, credentials[1]).initialize(DENSE)
    stale = client_of(tap, credentials[1], incarnation=7)
    before = REFUSALS.counts()[Reason.STALE_INCARNATION]
    with pytest.raises(StaleCluster):
        push(stale, 0)
    assert REFUSALS.counts()[Reason.STALE_INCARNATION] == before + 1
    audit = partition.get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert not any(audit.applied_minibatches)
    stale.close()


def test_a_recorded_request_for_a_task_gets_no_second_one(tmp_path: Path):
    world = MasterWorld(tmp_path)
    try:
        world.register()
        first, second = world.lease(0), world.lease(1)
        before = dict(REFUSALS.counts())
        assert world.lease(1) == second
        # The worker has asked again since: what it was granted then, it knows.
        assert first.outcome == master_pb2.LeaseReply.GRANTED
        assert world.lease(0).outcome == master_pb2.LeaseReply.WAIT
        request = master_pb2.LeaseRequest(instance=WORKER_ID, request=2)
        request.instance.incarnation += 1
        reply = master_pb2.LeaseReply.FromString(world.call("Lease", request))
        assert reply.outcome == master_pb2.LeaseReply.NOT_A_MEMBER
        counted = {reason: REFUSALS.counts()[reason] - before[reason] for reason in Reason}
        assert counted[Reason.REPLAYED] == 2
        assert counted[Reason.STALE_INCARNATION] == 1
    finally:
        world.close()
