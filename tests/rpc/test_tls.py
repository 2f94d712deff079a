"""Calls between pods: who shows no certificate, or one of somebody else, is not heard."""

from __future__ import annotations

import dataclasses
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from elasticdl.api.kubernetes.certificates import make_certificates, write_credentials
from elasticdl.credentials import Credentials
from elasticdl.proto import master_pb2, supervisor_pb2
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc import (
    Client,
    DeadlinePassed,
    Frame,
    GrpcTransport,
    NewestMaster,
    RpcFailed,
    RpcUnauthenticated,
    RpcUnavailable,
    Server,
    Service,
    StreamServer,
    StreamTransport,
    Transport,
    tls_connection,
)
from elasticdl.rpc.roles import CALLERS, ROLES
from tests.rpc.certified import JOB, certified
from tests.rpc.every_service import DESCRIPTORS
from tests.rpc.test_streams import DEADLINE_S, DESCRIPTOR, PATH, Echo, until

METHODS = [(each, method) for each in DESCRIPTORS for method in each.methods]
SUPERVISOR = supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"]
TIMEOUT_S = 10.0


class Anything:
    """Has every method, and tells which were called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def answer(request: Any) -> Any:
            self.called.append(name)
            raise LookupError("called")

        return answer


def serve(service: Service, credentials: Credentials) -> Server | StreamServer:
    """Serve as the product does."""
    if service.has_frames:
        # Another address than the one that has a Unix socket.
        return StreamServer([service], credentials)
    return Server([service], credentials)


def connect(server: Server | StreamServer, shown: Credentials, role: str) -> Transport:
    kind = StreamTransport if isinstance(server, StreamServer) else GrpcTransport
    return kind(server.address, shown, role)


def role_of_server(service: str) -> str:
    return "master" if service in ("elasticdl.Master", "elasticdl.Supervisor") else "ps"


@contextmanager
def refusals(reason: Reason) -> Iterator[list[int]]:
    """Yield a list that has, at the end, how many more were counted."""
    counted: list[int] = []
    before = REFUSALS.counts()[reason]
    yield counted
    counted.append(REFUSALS.counts()[reason] - before)


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, tuple[Server | StreamServer, Anything]]]:
    """Every service there is, with certificates."""
    found = {}
    for descriptor in DESCRIPTORS:
        handler = Anything()
        credentials = certified(role_of_server(descriptor.full_name))
        found[descriptor.full_name] = serve(Service(descriptor, handler), credentials), handler
    yield found
    for server, _ in found.values():
        server.stop()


def every_call(served, shown: Credentials, called_role: str | None = None):
    """Call every method of every service; yields the service, its method, and what came of it."""
    for descriptor in DESCRIPTORS:
        server, _ = served[descriptor.full_name]
        name = called_role or role_of_server(descriptor.full_name)
        transport = connect(server, shown, name)
        for method in descriptor.methods:
            path = f"/{descriptor.full_name}/{method.name}"
            try:
                outcome: object = transport.call(path, Frame(), TIMEOUT_S)
            except Exception as error:
                outcome = error
            yield descriptor.full_name, method.name, outcome
        transport.close()


def test_there_are_all_services():
    assert len(METHODS) >= 31
    assert {one.full_name for one in DESCRIPTORS} == set(CALLERS)
    for descriptor in DESCRIPTORS:
        assert set(CALLERS[descriptor.full_name]) == {one.name for one in descriptor.methods}
        for callers in CALLERS[descriptor.full_name].values():
            assert set(callers) <= set(ROLES)


def test_without_a_certificate_no_method_of_any_service_is_even_reached(served):
    plain = Credentials(certified("worker").token, JOB)
    outcomes = [outcome for _, _, outcome in every_call(served, plain)]
    assert len(outcomes) == len(METHODS)
    assert all(isinstance(one, RpcUnavailable) for one in outcomes), outcomes
    assert not any(handler.called for _, handler in served.values())


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_no_method_of_any_service_is_called(served, token):
    for role in ROLES:
        shown = dataclasses.replace(certified(role), token=token)
        with refusals(Reason.UNAUTHENTICATED) as counted:
            outcomes = [outcome for _, _, outcome in every_call(served, shown)]
        assert all(isinstance(one, RpcUnauthenticated) for one in outcomes), outcomes
        assert counted == [len(METHODS)]
    assert not any(handler.called for _, handler in served.values())


def test_a_role_may_call_what_the_table_says_and_nothing_else(served):
    for role in ROLES:
        allowed = 0
        with refusals(Reason.FORBIDDEN_ROLE) as counted:
            for service, method, outcome in every_call(served, certified(role)):
                assert isinstance(outcome, RpcFailed)
                # An empty request to the master is of no role at all.
                is_own = service == "elasticdl.Master" and "instance" in _fields(service, method)
                may = role in CALLERS[service][method] and not is_own
                allowed += may
                what = "LookupError: called" if may else "PERMISSION_DENIED"
                assert what in str(outcome), (role, service, method)
        assert counted == [len(METHODS) - allowed]
    for server, handler in served.values():
        assert handler.called or isinstance(server, Server)
        handler.called.clear()


def _fields(service: str, method: str) -> Any:
    (found,) = [m for d, m in METHODS if d.full_name == service and m.name == method]
    return found.input_type.fields_by_name


def test_an_instance_speaks_for_its_own_role_only(served):
    server, handler = served["elasticdl.Master"]
    master = master_pb2.DESCRIPTOR.services_by_name["Master"]
    client = Client(master, connect(server, certified("worker"), "master"), "the master")
    for role, text in (("worker", "LookupError: called"), ("ps", "PERMISSION_DENIED")):
        request = master_pb2.HeartbeatRequest(instance=master_pb2.InstanceId(role=role))
        with pytest.raises(RpcFailed, match=text):
            client.call("Heartbeat", request, TIMEOUT_S)
    assert handler.called == ["heartbeat"]
    handler.called.clear()
    client.close()


STRANGERS = {
    "another job's authority": lambda: dataclasses.replace(
        certified("worker", "ctr-2"), token=certified("worker").token, job=JOB
    ),
    "expired": lambda: dataclasses.replace(
        certified("worker", JOB, 400), token=certified("worker").token
    ),
    "not valid yet": lambda: dataclasses.replace(
        certified("worker", JOB, -2), token=certified("worker").token
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_certificates_that_are_not_the_jobs_are_refused_by_both_sides(served, stranger):
    shown = STRANGERS[stranger]()
    for name in ("elasticdl.Standby", "elasticdl.Master"):
        server, _ = served[name]
        transport = connect(server, shown, role_of_server(name))
        expected = RpcUnauthenticated if isinstance(server, StreamServer) else RpcUnavailable
        with pytest.raises(expected):
            transport.call(PATH, Frame(), TIMEOUT_S)
        transport.close()
    # Who calls trusts the authority of the job, who is called does not, and the reverse.
    ours = certified("worker").tls
    assert ours is not None
    assert shown.tls is not None
    server = served["elasticdl.Standby"][0]
    as_we_are = dataclasses.replace(shown.tls, authority=ours.authority)
    until(lambda: not server._connections)  # What was refused above is counted.
    with refusals(Reason.UNAUTHENTICATED) as counted:
        transport = connect(server, dataclasses.replace(shown, tls=as_we_are), "ps")
        with pytest.raises(RpcUnauthenticated, match="it refuses this side's certificate"):
            transport.call(PATH, Frame(), TIMEOUT_S)
        transport.close()
        until(lambda: not server._connections)
    assert counted == [1]


def test_who_has_the_address_of_another_role_is_not_spoken_to(served):
    stream = StreamTransport(served["elasticdl.Standby"][0].address, certified("ps"), "master")
    with pytest.raises(RpcUnauthenticated, match=r"not valid for 'master\.elasticdl'"):
        stream.call(PATH, Frame(), TIMEOUT_S)
    channel = GrpcTransport(served["elasticdl.Master"][0].address, certified("client"), "ps")
    with pytest.raises(RpcUnavailable):
        channel.call("/elasticdl.Master/Stop", Frame(), TIMEOUT_S)
    stream.close()
    channel.close()
    assert not any(handler.called for _, handler in served.values())


@pytest.mark.parametrize("is_certified", [True, False])
def test_other_jobs_and_other_sessions_are_refused_and_counted(is_certified):
    own = certified("ps") if is_certified else Credentials("secret", JOB)
    own = dataclasses.replace(own, session="b")
    servers = [
        StreamServer([Service(DESCRIPTOR, Echo())], own, "127.0.0.2:0"),
        Server([Service(SUPERVISOR, Anything())], own),
    ]
    paths = [PATH, "/elasticdl.Supervisor/Watch"]
    for server, path in zip(servers, paths, strict=True):
        for shown in (
            dataclasses.replace(own, job="ctr-2"),
            dataclasses.replace(own, job=""),
            dataclasses.replace(own, session="a"),
            dataclasses.replace(own, job="ctr-2", token="another"),
        ):
            transport = connect(server, shown, "ps")
            with refusals(Reason.WRONG_JOB) as counted, pytest.raises(RpcUnauthenticated):
                transport.call(path, Frame(), TIMEOUT_S)
            assert counted == [1]
            transport.close()
        from_outside = connect(server, dataclasses.replace(own, session=""), "ps")
        with pytest.raises(RpcFailed) if server is servers[1] else _nothing():
            from_outside.call(path, Frame(), TIMEOUT_S)
        from_outside.close()
        server.stop()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


# ------------------------------------------------------------------------------ masters


class Alive:
    """A master, as far as this goes."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        return lambda request: master_pb2.HeartbeatReply(accepted=True)


MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]


def master(incarnation: int, address: str = "127.0.0.1:0", **more: Any) -> Server:
    credentials = Credentials("secret", JOB, master_incarnation=incarnation)
    return Server([Service(MASTER, Alive())], credentials, address, **more)


def test_what_a_former_master_replies_is_dropped_and_the_new_one_found():
    newest = NewestMaster()
    former, told = master(3), threading.Event()
    transport = GrpcTransport(former.address, Credentials("secret", JOB), newest_master=newest)
    client = Client(MASTER, transport, "the master")
    beat = master_pb2.HeartbeatRequest()
    assert client.call("Heartbeat", beat, TIMEOUT_S).accepted
    assert newest.incarnation == 3
    newest.note(4)  # As another master says, or a reply of it.
    with refusals(Reason.STALE_MASTER) as counted, pytest.raises(RpcUnavailable, match="replaced"):
        client.call("Heartbeat", beat, TIMEOUT_S)
    assert counted == [2]  # Who was replaced was told so, and its answer was not heard.
    former.stop()
    later = master(4, former.address, on_replaced=told.set)
    assert client.call_until("Heartbeat", beat, DEADLINE_S).accepted
    assert not told.is_set()
    newest.note(5)
    with pytest.raises(RpcUnavailable):
        client.call("Heartbeat", beat, TIMEOUT_S)
    assert told.is_set()
    client.close()
    later.stop()


def test_an_instance_knows_from_its_launch_which_master_to_hear():
    former = master(3)
    transport = GrpcTransport(
        former.address, Credentials("secret", JOB), newest_master=NewestMaster(4)
    )
    client = Client(MASTER, transport, "the master")
    with pytest.raises(DeadlinePassed):
        client.call_until("Heartbeat", master_pb2.HeartbeatRequest(), 0.2)
    client.close()
    former.stop()


def test_a_former_master_is_not_heard_though_its_connection_is_open():
    echo, own = Echo(), Credentials("secret", JOB)
    server = StreamServer([Service(DESCRIPTOR, echo)], own)
    masters = [
        StreamTransport(server.address, dataclasses.replace(own, master_incarnation=number))
        for number in (1, 2)
    ]
    worker = StreamTransport(server.address, own)
    for transport in (worker, *masters, worker):
        transport.call(PATH, Frame(b"a"), TIMEOUT_S)
    with refusals(Reason.STALE_MASTER) as counted:
        with pytest.raises(RpcUnavailable, match="closed the connection"):
            masters[0].call(PATH, Frame(b"late"), TIMEOUT_S)
        with pytest.raises(RpcFailed, match="a newer master"):
            masters[0].call(PATH, Frame(b"late"), TIMEOUT_S)
    assert counted == [2]
    masters[1].call(PATH, Frame(b"b"), TIMEOUT_S)
    assert echo.requests == [b"a"] * 4 + [b"b"]
    for transport in (worker, *masters):
        transport.close()
    server.stop()


# -------------------------------------------------------------------------- connections


@pytest.fixture
def stream_server() -> Iterator[StreamServer]:
    one = StreamServer([Service(DESCRIPTOR, Echo())], certified("ps"), "127.0.0.1:0")
    yield one
    one.stop()


def test_with_certificates_there_is_no_unix_socket(stream_server):
    assert [one.family for one in stream_server._listening] == [socket.AF_INET]
    transport = StreamTransport(stream_server.address, certified("ps"))
    assert transport.call(PATH, Frame(b"a"), TIMEOUT_S).head == b"re: a"
    ((_, connection),) = transport._idle
    assert connection._socket.version() == "TLSv1.3"  # type: ignore[attr-defined]
    transport.close()


def test_a_thousand_random_beginnings_end_their_connections_only(stream_server):
    host, _, port = stream_server.address.rpartition(":")
    chance = random.Random(7)
    with refusals(Reason.UNAUTHENTICATED) as counted:
        for number in range(1000):
            with socket.create_connection((host, int(port))) as peer:
                data = chance.randbytes(chance.randrange(1, 200))
                # Every other one begins as a client of TLS does.
                peer.sendall(b"\x16\x03\x01\x00\x40" + data if number % 2 else data)
        until(lambda: not stream_server._connections)
    transport = StreamTransport(stream_server.address, certified("ps"))
    assert transport.call(PATH, Frame(b"a"), TIMEOUT_S).head == b"re: a"
    transport.close()
    assert counted[0] > 300  # The others end too soon to tell what they would have been.


def test_who_connects_and_says_nothing_is_given_up_and_hinders_nobody(stream_server, monkeypatch):
    monkeypatch.setattr("elasticdl.rpc.stream_server.HELLO_S", 0.2)
    host, _, port = stream_server.address.rpartition(":")
    with socket.create_connection((host, int(port))):
        until(lambda: bool(stream_server._connections))
        transport = StreamTransport(stream_server.address, certified("ps"))
        assert transport.call(PATH, Frame(b"a"), TIMEOUT_S).head == b"re: a"
        transport.close()
        until(lambda: not stream_server._connections)


def test_a_connection_whose_keys_were_used_enough_is_not_used_again(stream_server, monkeypatch):
    monkeypatch.setattr(tls_connection, "MOST_BYTES", 5 << 18)
    transport = StreamTransport(stream_server.address, certified("ps"))
    found = []
    for _ in range(4):
        transport.call(PATH, Frame(b"", (memoryview(bytes(1 << 18)),)), TIMEOUT_S)
        found.append([connection for _, connection in transport._idle])
    assert found[0] == found[1] != []
    assert found[2] == []
    assert found[3] != []
    transport.close()


def test_a_server_that_stops_ends_connections_that_still_shake_hands(stream_server):
    host, _, port = stream_server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as peer:
        until(lambda: bool(stream_server._connections))
        began = time.monotonic()
        stream_server.stop()
        assert not stream_server._connections
        assert time.monotonic() - began < 5.0
        peer.settimeout(TIMEOUT_S)
        assert peer.recv(1) == b""


# -------------------------------------------------------------------------------- files


def test_secrets_are_for_their_owner_and_shown_to_nobody(tmp_path):
    secret = make_certificates(JOB)
    write_credentials(secret, "worker", tmp_path)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["ca.crt", "job", "tls.crt", "tls.key", "token"]
    with pytest.raises(FileExistsError):
        write_credentials(secret, "worker", tmp_path)
    credentials = Credentials.of_directory(tmp_path)
    assert credentials.token
    assert credentials.token not in repr(credentials)
    assert sum(b"PRIVATE KEY" in text for text in secret.values()) == len(ROLES)
    # The authority's own is nowhere: what is private is each role's, and no two are alike.
    assert len({secret[f"{role}.key"] for role in ROLES}) == len(ROLES)


def test_no_certificate_of_a_job_signs_another(tmp_path):
    from cryptography import x509

    secret = make_certificates(JOB)
    for role in ROLES:
        one = x509.load_pem_x509_certificate(secret[f"{role}.crt"])
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not one.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_job_on_one_machine_needs_no_cryptography():
    without = """
import sys
sys.modules["cryptography"] = None
import elasticdl.api.launcher, elasticdl.master.__main__, elasticdl.ps.__main__
"""
    subprocess.run([sys.executable, "-c", without], check=True, timeout=60.0)
