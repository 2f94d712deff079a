"""Waits over streams: signals do not prolong them, and connections without calls do not stay."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from elasticdl.rpc import (
    Frame,
    RpcTimeout,
    Service,
    StreamServer,
    StreamTransport,
    stream_server,
    stream_transport,
)
from elasticdl.rpc.connection import MAGIC, Connection, Status
from tests.rpc.test_streams import DEADLINE_S, DESCRIPTOR, PATH, SECRET, Echo, until

EVERY_S = 0.05
TIMEOUT_S = 1.0


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """Interrupt this thread's system calls all the time; yields the signals that came."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    thread, is_over = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        ends = time.monotonic() + DEADLINE_S
        while not is_over.wait(EVERY_S) and time.monotonic() < ends:
            signal.pthread_kill(thread, signal.SIGUSR1)

    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        yield came
    finally:
        is_over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("num_sent", [0, 3, 20, 25, 30], ids="{} bytes of a reply came".format)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_call_ends_in_time_however_often_a_signal_comes(host, num_sent):
    with socket.create_server((host, 0)) as listening:

        def answer() -> None:
            connected, _ = listening.accept()
            with connected:
                connection = Connection(connected)
                deadline = time.monotonic() + DEADLINE_S
                connection.hear_hello(deadline)
                connection.answer_hello(Status.OK, deadline)
                connection.await_frame(deadline)
                prefix = MAGIC.to_bytes(4, "little") + bytes([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
                reply = prefix + (1000).to_bytes(8, "little") + b"h" + bytes(1000)
                connected.sendall(reply[:num_sent])
                connected.recv(1)  # Until the caller has given up.

        server = threading.Thread(target=answer)
        server.start()
        transport = StreamTransport(f"{host}:{listening.getsockname()[1]}", SECRET)
        try:
            with interrupted() as signals, pytest.raises(RpcTimeout, match=r"within 1 s"):
                transport.call(PATH, Frame(b"a"), TIMEOUT_S)
            assert 0 < len(signals) < DEADLINE_S / EVERY_S / 2, "they had not ended by themselves"
        finally:
            transport.close()
            server.join(DEADLINE_S)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=["127.0.0.1:0", "127.0.0.2:0"], ids=["unix", "tcp"])
def server(request, echo) -> Iterator[StreamServer]:
    one = StreamServer([Service(DESCRIPTOR, echo)], SECRET, request.param)
    yield one
    one.stop()


def call(transport: StreamTransport) -> None:
    assert transport.call(PATH, Frame(b"a"), DEADLINE_S).head == b"re: a"


def test_a_server_closes_connections_without_calls_and_nobody_sees_it(server, monkeypatch):
    monkeypatch.setattr(stream_server, "REST_S", 0.3)
    monkeypatch.setattr(stream_transport, "REST_S", 0.0)
    transport = StreamTransport(server.address, SECRET)
    call(transport)
    until(lambda: not server._connections)
    call(transport)  # Once only: it would be unavailable over the old one.
    transport.close()


def test_a_call_that_takes_longer_than_connections_may_rest_is_let_finish(
    server, echo, monkeypatch
):
    monkeypatch.setattr(stream_server, "REST_S", 0.1)
    echo.before = lambda: threading.Event().wait(0.5)
    transport = StreamTransport(server.address, SECRET)
    call(transport)
    transport.close()


def test_what_rested_for_long_is_not_used_again_but_closed(server, echo, monkeypatch):
    transport = StreamTransport(server.address, SECRET)
    free = threading.Event()
    echo.before = lambda: free.wait(DEADLINE_S)
    calls = [transport.start(PATH, Frame(b"a"), DEADLINE_S) for _ in range(3)]
    until(lambda: len(echo.requests) == 3)
    free.set()
    for one in calls:
        one.result(DEADLINE_S)
    until(lambda: len(transport._idle) == 3)
    since = [began for began, _ in transport._idle]
    assert since == sorted(since)
    monkeypatch.setattr(stream_transport, "REST_S", 0.0)
    call(transport)
    assert len(transport._idle) == 1
    until(lambda: len(server._connections) == 1)
    transport.close()


def test_connections_are_given_up_here_before_they_are_there():
    assert stream_transport.REST_S + 30 <= stream_server.REST_S
