"""Calls between instances: the token, refusals, deadlines, and faults made on purpose."""

from __future__ import annotations

import itertools
import queue
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from elasticdl.credentials import Credentials
from elasticdl.errors import UsageError
from elasticdl.proto import master_pb2, ps_pb2, supervisor_pb2
from elasticdl.ps.partition import Partition
from elasticdl.rpc import (
    Client,
    DeadlinePassed,
    DirectTransport,
    Frame,
    GrpcTransport,
    RpcFailed,
    RpcTimeout,
    RpcUnauthenticated,
    RpcUnavailable,
    Server,
    Service,
    StreamServer,
    StreamTransport,
    Transport,
)
from elasticdl.rpc.faults import Cuts, Faults, FaultyTransport
from elasticdl.rpc.service import prompt
from tests.rpc.every_service import DESCRIPTORS

SECRET = Credentials("secret", "mnist-1")
SUPERVISOR = supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"]


class Handler:
    """A Supervisor that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def launch(self, request: master_pb2.InstanceId) -> master_pb2.Ack:
        self.calls.append(request.role)
        if request.role == "broken":
            raise ValueError("no such role")
        return master_pb2.Ack(accepted=True)

    def stop_instance(self, request: supervisor_pb2.StopInstanceRequest) -> master_pb2.Ack:
        return master_pb2.Ack()

    def watch(self, request: supervisor_pb2.WatchRequest) -> supervisor_pb2.WatchReply:
        return supervisor_pb2.WatchReply()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def server(handler):
    one = Server([Service(SUPERVISOR, handler)], SECRET)
    yield one
    one.stop()


def connect(server: Server, credentials: Credentials = SECRET) -> Client:
    return Client(SUPERVISOR, GrpcTransport(server.address, credentials), "the supervisor")


def test_a_call_brings_its_reply(server, handler):
    assert connect(server).call("Launch", master_pb2.InstanceId(role="ps")).accepted
    assert handler.calls == ["ps"]


@pytest.mark.parametrize("shown", [Credentials("", "mnist-1"), Credentials("wrong", "mnist-1")])
def test_every_method_of_every_service_wants_the_token(shown):
    class Anything:
        def __getattr__(self, name):
            return lambda request: pytest.fail(f"{name} was called without the token")

    for descriptor in DESCRIPTORS:
        service = Service(descriptor, Anything())
        server, transport = serve(service, shown)
        assert len(service.paths) == len(descriptor.methods)
        for path in service.paths:
            with pytest.raises(RpcUnauthenticated):
                transport.call(path, Frame(), 5.0)
        transport.close()
        server.stop()


def serve(service: Service, shown: Credentials) -> tuple[Server | StreamServer, Transport]:
    """Serve as the product does, and connect with what is shown."""
    if service.has_frames:
        streams = StreamServer([service], SECRET)
        return streams, StreamTransport(streams.address, shown)
    server = Server([service], SECRET)
    return server, GrpcTransport(server.address, shown)


def test_what_has_frames_is_not_served_over_grpc():
    service = Service(ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"], Partition(0, 1))
    with pytest.raises(ValueError, match="wants a StreamServer"):
        Server([service], SECRET)


class PromptHandler(Handler):
    """Its launches are answered when somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: queue.Queue[Future[master_pb2.Ack]] = queue.Queue()

    @prompt
    def launch(self, request: master_pb2.InstanceId) -> Future[master_pb2.Ack]:  # type: ignore[override]
        super().launch(request)
        outcome: Future[master_pb2.Ack] = Future()
        self.launched.put(outcome)
        return outcome


def test_any_number_of_prompt_calls_may_wait_and_others_are_answered_meanwhile():
    handler = PromptHandler()
    server = Server([Service(SUPERVISOR, handler)], SECRET, num_threads=1)
    client = connect(server)
    requests = [master_pb2.InstanceId(role="ps", index=index) for index in range(40)]
    with ThreadPoolExecutor(len(requests)) as threads:
        replies = [threads.submit(client.call, "Launch", one, 30.0) for one in requests]
        waiting = [handler.launched.get(timeout=30.0) for _ in requests]
        assert client.call("Watch", supervisor_pb2.WatchRequest(), 30.0) is not None
        assert not any(reply.done() for reply in replies)
        for outcome in waiting[1:]:
            outcome.set_result(master_pb2.Ack(accepted=True))
        waiting[0].set_exception(OSError("disk full"))
        errors = [reply.exception(timeout=30.0) for reply in replies]
    (error,) = [one for one in errors if one is not None]
    assert isinstance(error, RpcFailed)
    assert "OSError: disk full" in str(error)
    server.stop()


def test_a_prompt_call_whose_caller_is_gone_hurts_nobody():
    handler = PromptHandler()
    server = Server([Service(SUPERVISOR, handler)], SECRET)
    client = connect(server)
    with pytest.raises(RpcTimeout):
        client.call("Launch", master_pb2.InstanceId(role="ps"), 0.2)
    handler.launched.get(timeout=30.0).set_result(master_pb2.Ack(accepted=True))
    with pytest.raises(RpcFailed, match="ValueError: no such role"):
        client.call("Launch", master_pb2.InstanceId(role="broken"), 30.0)
    server.stop()


def test_an_exception_of_the_handler_is_told_and_is_not_repeated(server, handler):
    with pytest.raises(RpcFailed, match="ValueError: no such role"):
        connect(server).call_until("Launch", master_pb2.InstanceId(role="broken"), 5.0)
    assert handler.calls == ["broken"]


def test_garbage_and_unknown_methods_are_refused(server):
    transport = GrpcTransport(server.address, SECRET)
    with pytest.raises(RpcFailed, match="unreadable request"):
        transport.call("/elasticdl.Supervisor/Launch", Frame(b"\xff\xff\xff"), 5.0)
    with pytest.raises(RpcFailed, match="UNIMPLEMENTED"):
        transport.call("/elasticdl.Supervisor/Nothing", Frame(), 5.0)


def test_a_wait_ends_at_its_deadline_and_names_who_was_awaited(server):
    client = connect(server)
    server.stop()
    # The waits between draw nothing from the generator that Keras draws initial values from.
    drawn_from = random.getstate()
    with pytest.raises(DeadlinePassed, match="the supervisor did not answer Launch within"):
        client.call_until("Launch", master_pb2.InstanceId(role="ps"), deadline_s=0.3)
    assert random.getstate() == drawn_from


def test_a_wait_goes_on_until_the_other_side_is_back(handler):
    first = Server([Service(SUPERVISOR, handler)], SECRET)
    address = first.address
    client = connect(first)
    first.stop()
    outcome: list[bool] = []
    request = master_pb2.InstanceId(role="ps")
    thread = threading.Thread(
        target=lambda: outcome.append(client.call_until("Launch", request, 30.0).accepted)
    )
    thread.start()
    second = Server([Service(SUPERVISOR, handler)], SECRET, address=address)
    thread.join(30.0)
    second.stop()
    assert outcome == [True]


def test_an_occupied_address_is_an_error():
    with pytest.raises(OSError, match="cannot listen on"):
        Server([], SECRET, address="203.0.113.1:1")


def test_a_handler_that_lacks_a_method_is_found_at_once():
    with pytest.raises(AttributeError, match="initialize"):
        Service(ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"], object())
    Service(ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"], Partition(0, 1))


@pytest.mark.parametrize(
    ("faults", "calls", "fails"),
    [
        (Faults(request_lost=1.0), 0, True),
        (Faults(reply_lost=1.0), 1, True),
        (Faults(duplicated=1.0), 2, False),
        (Faults(delayed=1.0), 1, False),
        (Faults(), 1, False),
    ],
)
def test_faults_do_what_they_say(handler, faults, calls, fails):
    transport = FaultyTransport(DirectTransport(Service(SUPERVISOR, handler)), faults)
    data = Frame(master_pb2.InstanceId(role="ps").SerializeToString())
    if fails:
        with pytest.raises(RpcUnavailable, match="by fault injection"):
            transport.call("/elasticdl.Supervisor/Launch", data, 1.0)
    else:
        assert transport.start("/elasticdl.Supervisor/Launch", data, 1.0).result(5.0)
    assert len(handler.calls) == calls


def test_a_request_in_flight_arrives_after_calls_that_went_ahead_of_it(handler):
    transport = FaultyTransport(
        DirectTransport(Service(SUPERVISOR, handler)), Faults(in_flight=0.3, seed=5)
    )
    given_up = []
    for number in range(60):
        data = Frame(master_pb2.InstanceId(role=str(number)).SerializeToString())
        try:
            transport.call("/elasticdl.Supervisor/Launch", data, 1.0)
        except RpcUnavailable:
            given_up.append(str(number))
        for thread in threading.enumerate():
            if thread.name == "in-flight":
                thread.join(5.0)
    arrived = [role for role in given_up if role in handler.calls]
    assert len(arrived) > 5
    assert len(handler.calls) == len(set(handler.calls))
    for role in arrived:
        overtaken_by = handler.calls[: handler.calls.index(role)]
        assert any(int(other) > int(role) for other in overtaken_by)


def test_a_connection_is_cut_as_often_and_for_as_long_as_asked_for():
    cuts = Cuts(60.0, 5.0, random.Random(3), now=100.0)
    times = [100.0 + 0.1 * step for step in range(1_000_000)]
    states = [cuts.is_cut(time) for time in times]
    begins = sum(now and not before for before, now in itertools.pairwise(states))
    assert begins == pytest.approx(100_000 / 65, rel=0.1)
    assert sum(states) / len(states) == pytest.approx(5 / 65, rel=0.15)
    assert not any(Cuts(0.0, 5.0, random.Random(3), 100.0).is_cut(time) for time in times[:1000])


def test_nothing_arrives_over_a_connection_that_is_cut(handler):
    always = Faults(cut_every_s=1e-9, cut_s=1e9)
    transport = FaultyTransport(DirectTransport(Service(SUPERVISOR, handler)), always)
    for _ in range(3):
        with pytest.raises(RpcUnavailable, match="by fault injection"):
            transport.call("/elasticdl.Supervisor/Launch", Frame(), 1.0)
    assert handler.calls == []


@pytest.mark.parametrize("text", ["lost=0.1", "reply_lost=often"])
def test_a_wrong_fault_is_named(text):
    with pytest.raises(UsageError, match="ELASTICDL_FAULTS"):
        Faults.parse(text)


def test_a_channel_refused_is_unavailable_not_the_end():
    transport = GrpcTransport("127.0.0.1:9", SECRET)
    with pytest.raises(RpcUnavailable):
        transport.call("/elasticdl.Supervisor/Launch", Frame(), 1.0)
