"""Frames over streams: what arrives, and what happens when the other side is slow, gone or odd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.credentials import JOB_NAME_FILE, TOKEN_FILE, Credentials
from elasticdl.memory import ALIGNMENT, SMALLEST_BYTES, MemoryPool
from elasticdl.proto import ps_pb2
from elasticdl.rpc import (
    Client,
    Frame,
    Placement,
    RpcFailed,
    RpcTimeout,
    RpcUnavailable,
    Server,
    Service,
    StreamServer,
    StreamTransport,
    stream_server,
)
from elasticdl.rpc.connection import MAGIC, Connection, Status
from elasticdl.rpc.faults import Faults, FaultyTransport
from elasticdl.rpc.frame import bytes_of
from elasticdl.rpc.tls_connection import TlsConnection
from tests.rpc.certified import JOB, certified

DESCRIPTOR = ps_pb2.DESCRIPTOR.services_by_name["Standby"]
PATH = f"/{DESCRIPTOR.full_name}/WriteCopy"
DEADLINE_S = 20.0
SECRET = Credentials("secret", JOB)


class Echo:
    """Answers with what it was sent; `before` may delay that."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.before: Callable[[], object] = lambda: None

    def write_copy(self, frame: Frame) -> Frame:
        self.requests.append(frame.head)
        self.before()
        if frame.head == b"broken":
            raise ValueError("no such file")
        return Frame(b"re: " + frame.head, frame.buffers)

    def __getattr__(self, name: str) -> Callable[[Frame], Frame]:
        return self.write_copy


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=["unix", "tcp", "tls"])
def carrier(request) -> str:
    return request.param


@pytest.fixture
def credentials(carrier) -> Credentials:
    """What both sides show."""
    return certified("ps") if carrier == "tls" else SECRET


# The first is reached through a Unix socket, the others, loopback all the same, through TCP.
@pytest.fixture
def server(carrier, credentials, echo) -> Iterator[StreamServer]:
    address = "127.0.0.1:0" if carrier == "unix" else "127.0.0.2:0"
    one = StreamServer([Service(DESCRIPTOR, echo)], credentials, address)
    yield one
    one.stop()


@pytest.fixture
def transport(server, credentials) -> Iterator[StreamTransport]:
    one = StreamTransport(server.address, credentials)
    yield one
    one.close()


@contextlib.contextmanager
def connected(server: StreamServer, credentials: Credentials) -> Iterator[Connection]:
    """Connect as a transport does, over TCP, and say hello."""
    deadline = time.monotonic() + DEADLINE_S
    host, _, port = server.address.rpartition(":")
    peer = socket.create_connection((host, int(port)))
    connection = Connection(peer)
    if credentials.client_context is not None:
        connection = TlsConnection(peer, credentials.client_context, "ps")
        connection.secure(deadline)
    assert connection.say_hello(credentials, deadline) is Status.OK
    yield connection
    connection.close()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_loopback_addresses_meet_on_unix_sockets_and_others_do_not(carrier, transport):
    transport.call(PATH, Frame(b"a"), DEADLINE_S)
    ((_, connection),) = transport._idle
    assert (connection._socket.family == socket.AF_UNIX) == (carrier == "unix")


@pytest.mark.parametrize("lengths", [[], [0], [1], [0, 7, 0], [100_000, 3, 1 << 22], [9] * 2000])
def test_buffers_arrive_as_they_were_and_aligned(transport, lengths):
    rng = np.random.default_rng(0)
    sent = [rng.integers(0, 256, length, np.uint8) for length in lengths]
    reply = transport.call(PATH, Frame(b"head", tuple(map(bytes_of, sent))), DEADLINE_S)
    assert reply.head == b"re: head"
    assert reply.lengths == tuple(lengths)
    for one, received in zip(sent, reply.buffers, strict=True):
        array = np.frombuffer(received, np.uint8)
        np.testing.assert_array_equal(array, one)
        assert array.ctypes.data % ALIGNMENT == 0 or not len(array)


def test_a_buffer_in_pieces_is_one_for_the_receiver(transport):
    pieces = tuple(memoryview(bytes([n % 256]) * n) for n in range(2000))
    reply = transport.call(PATH, Frame(b"", (pieces, memoryview(b"end"))), DEADLINE_S)
    assert [bytes(one) for one in reply.buffers] == [b"".join(pieces), b"end"]


def test_a_reply_is_put_where_it_is_wanted_or_comes_as_it_is(transport):
    request = Frame(b"", (memoryview(b"abcdef"), memoryview(b"gh")))
    first, second = bytearray(4), bytearray(4)
    fits = Placement([6, 2], [memoryview(first), memoryview(second)])
    assert transport.call(PATH, request, DEADLINE_S, fits).buffers == ()
    assert (fits.is_filled, first, second) == (True, b"abcd", b"efgh")
    other = Placement([5, 3], [memoryview(first), memoryview(second)])
    reply = transport.call(PATH, request, DEADLINE_S, other)
    assert not other.is_filled
    assert [bytes(one) for one in reply.buffers] == [b"abcdef", b"gh"]
    with pytest.raises(ValueError, match="do not fit"):
        Placement([9], [memoryview(first)])


def test_many_calls_at_once_get_their_own_replies(transport):
    def call(number: int) -> bool:
        data = np.full(1 + 1000 * (number % 50), number % 256, np.uint8)
        reply = transport.call(PATH, Frame(b"%d" % number, (bytes_of(data),)), DEADLINE_S)
        return reply.head == b"re: %d" % number and bytes(reply.buffers[0]) == data.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))
    started = [transport.start(PATH, Frame(b"%d" % n), DEADLINE_S) for n in range(40)]
    assert [one.result(DEADLINE_S).head for one in started] == [b"re: %d" % n for n in range(40)]


def test_what_the_handler_raises_is_told_and_the_connection_goes_on(transport):
    with pytest.raises(RpcFailed, match="INTERNAL: ValueError: no such file"):
        transport.call(PATH, Frame(b"broken", (memoryview(b"data"),)), DEADLINE_S)
    with pytest.raises(RpcFailed, match="UNIMPLEMENTED"):
        transport.call("/elasticdl.Standby/Nothing", Frame(b"", (memoryview(b"x"),)), DEADLINE_S)
    finish = f"/{DESCRIPTOR.full_name}/FinishCopy"
    with pytest.raises(RpcFailed, match="INVALID_ARGUMENT: unreadable request"):
        transport.call(finish, Frame(b"\xff\xff"), DEADLINE_S)
    assert transport.call(PATH, Frame(b"a"), DEADLINE_S).head == b"re: a"
    assert len(transport._idle) == 1


# ------------------------------------------------------------------ the other side


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_peer_that_dies_within_a_frame_is_forgotten_and_nothing_of_it_runs(
    server, transport, credentials, echo, share
):
    lines: list[bytes] = []

    class Recorder:
        """A socket that only notes what would be sent."""

        family = socket.AF_UNIX

        def settimeout(self, seconds: object) -> None: ...

        def fileno(self) -> int:
            return 0  # Nobody waits for it.

        def setsockopt(self, *of: object) -> None: ...

        def sendmsg(self, pieces: list[memoryview], *of: object) -> int:
            lines.extend(bytes(piece) for piece in pieces)
            return sum(piece.nbytes for piece in pieces)

    frame = Frame(b"half", (memoryview(bytes(300_000)),))
    Connection(Recorder()).send(frame, PATH, Status.OK, time.monotonic() + 1)  # type: ignore[arg-type]
    data = b"".join(lines)
    with connected(server, credentials) as connection:
        connection._socket.sendall(data[: int(share * len(data))])
    until(lambda: not server._connections)
    assert transport.call(PATH, Frame(b"a"), DEADLINE_S).head == b"re: a"
    assert echo.requests == [b"a"]


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=60), greets=st.booleans())
def test_garbage_ends_its_connection_only(data, greets):
    server = StreamServer([Service(DESCRIPTOR, Echo())], SECRET)
    try:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))) as peer:
            if greets:
                Connection(peer).say_hello(SECRET, time.monotonic() + DEADLINE_S)
                data = MAGIC.to_bytes(4, "little") + data
            with contextlib.suppress(OSError):  # The server may be quicker.
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
            until(lambda: not server._connections)
        transport = StreamTransport(server.address, SECRET)
        assert transport.call(PATH, Frame(b"a"), DEADLINE_S).head == b"re: a"
        transport.close()
    finally:
        server.stop()


def test_what_speaks_another_protocol_is_unavailable_and_not_waited_for():
    server = Server([], SECRET)
    transport = StreamTransport(server.address, SECRET)
    with pytest.raises(RpcUnavailable):
        transport.call(PATH, Frame(b"a"), 5.0)
    server.stop()
    with pytest.raises(RpcUnavailable):
        StreamTransport("127.0.0.1:9", SECRET).call(PATH, Frame(b"a"), 5.0)


def test_a_server_that_ends_a_reply_early_is_unavailable():
    listening = socket.create_server(("127.0.0.2", 0))

    def answer() -> None:
        connected, _ = listening.accept()
        connection = Connection(connected)
        deadline = time.monotonic() + DEADLINE_S
        connection.hear_hello(deadline)
        connection.answer_hello(Status.OK, deadline)
        connection.receive_buffers(connection.await_frame(deadline, DEADLINE_S), deadline)
        prefix = MAGIC.to_bytes(4, "little") + bytes([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
        connected.sendall(prefix + (1000).to_bytes(8, "little") + b"h" + bytes(10))
        connected.close()

    thread = threading.Thread(target=answer)
    thread.start()
    transport = StreamTransport(f"127.0.0.2:{listening.getsockname()[1]}", SECRET)
    with pytest.raises(RpcUnavailable, match="closed the connection"):
        transport.call(PATH, Frame(b"a"), DEADLINE_S)
    thread.join(DEADLINE_S)
    listening.close()


def test_a_call_that_takes_too_long_names_what_was_awaited_and_its_reply_never_comes(
    server, transport, echo
):
    free = threading.Event()
    echo.before = lambda: free.wait(DEADLINE_S)
    late = Placement([3], [memoryview(bytearray(3))])
    with pytest.raises(RpcTimeout, match=rf"WriteCopy: {server.address}: .*within 0.3 s"):
        transport.call(PATH, Frame(b"late", (memoryview(b"abc"),)), 0.3, late)
    free.set()
    until(lambda: not server._connections)
    assert bytes(late.pieces[0]) == bytes(3)
    assert transport.call(PATH, Frame(b"b"), DEADLINE_S).head == b"re: b"
    assert echo.requests == [b"late", b"b"]


def test_a_peer_that_does_not_read_its_reply_is_given_up(server, credentials, monkeypatch):
    monkeypatch.setattr(stream_server, "PATIENCE_S", 1.0)
    with connected(server, credentials) as connection:
        deadline = time.monotonic() + DEADLINE_S
        frame = Frame(b"", (memoryview(bytes(1 << 25)),))
        connection.send(frame, PATH, Status.OK, deadline)
        until(lambda: not server._connections)


def test_requests_beyond_the_room_wait_and_one_too_large_is_taken_alone(echo):
    server = StreamServer([Service(DESCRIPTOR, echo)], SECRET, most_bytes=1000)
    transport = StreamTransport(server.address, SECRET)
    free = threading.Event()
    echo.before = lambda: free.wait(DEADLINE_S)
    started = [
        transport.start(PATH, Frame(b"", (memoryview(bytes(size)),)), DEADLINE_S)
        for size in (600, 600, 5000)
    ]
    small = transport.start(PATH, Frame(b"small"), DEADLINE_S)
    until(lambda: len(echo.requests) == 2)
    assert sorted(echo.requests) == [b"", b"small"]
    free.set()
    assert [one.result(DEADLINE_S).lengths for one in started] == [(600,), (600,), (5000,)]
    assert small.result(DEADLINE_S).head == b"re: small"
    transport.close()
    server.stop()


def test_closing_ends_calls_in_flight_on_either_side(server, credentials, echo):
    free = threading.Event()
    echo.before = lambda: free.wait(DEADLINE_S)
    first = StreamTransport(server.address, credentials)
    second = StreamTransport(server.address, credentials)
    calls = [one.start(PATH, Frame(b"a"), DEADLINE_S) for one in (first, second)]
    until(lambda: len(echo.requests) == 2)
    first.close()
    with pytest.raises(RpcUnavailable):
        calls[0].result(DEADLINE_S)
    with pytest.raises(RpcUnavailable, match="closed on this side"):
        first.call(PATH, Frame(b"a"), DEADLINE_S)
    with pytest.raises(RpcUnavailable, match="closed on this side"):
        first.start(PATH, Frame(b"a"), DEADLINE_S).result(DEADLINE_S)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    with pytest.raises(RpcUnavailable):
        calls[1].result(DEADLINE_S)
    free.set()
    stopping.join(DEADLINE_S)
    second.close()


def test_calls_in_flight_are_let_finish_when_a_server_stops(server, transport, echo):
    free = threading.Event()
    echo.before = lambda: free.wait(DEADLINE_S)
    call = transport.start(PATH, Frame(b"a"), DEADLINE_S)
    until(lambda: len(echo.requests) == 1)
    stopping = threading.Thread(target=server.stop, args=(DEADLINE_S,))
    stopping.start()
    until(lambda: server._is_stopping)
    free.set()
    assert call.result(DEADLINE_S).head == b"re: a"
    stopping.join(DEADLINE_S)


def test_a_server_that_is_back_at_its_address_is_found_again(server, transport, credentials, echo):
    client = Client(DESCRIPTOR, transport, "the keeper")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client.call("WriteCopy", Frame(b"a")), range(8)))
    server.stop()
    second = StreamServer([Service(DESCRIPTOR, echo)], credentials, server.address)
    assert client.call_until("WriteCopy", Frame(b"b"), DEADLINE_S).head == b"re: b"
    second.stop()


PROCESS = """
from elasticdl.credentials import Credentials
from elasticdl.rpc import Service, StreamServer
from tests.rpc.test_streams import DESCRIPTOR, Echo
import sys, threading
credentials = Credentials.of_directory(sys.argv[1])
server = StreamServer([Service(DESCRIPTOR, Echo())], credentials)
print(server.address, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def process(credentials, tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    directory = tmp_path
    if credentials.tls is not None:
        directory = credentials.tls.key.parent
    else:
        (directory / TOKEN_FILE).write_text(credentials.token)
        (directory / JOB_NAME_FILE).write_text(credentials.job)
    one = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert one.stdout is not None
    yield one, one.stdout.readline().strip()
    with contextlib.suppress(ProcessLookupError):
        one.kill()
    one.wait(DEADLINE_S)


def test_a_frozen_process_is_waited_for_no_longer_than_asked_and_may_thaw(process, credentials):
    frozen, address = process
    transport = StreamTransport(address, credentials)
    large = Frame(b"", (memoryview(bytes(1 << 25)),))
    transport.call(PATH, large, DEADLINE_S)
    os.kill(frozen.pid, signal.SIGSTOP)
    for request in (large, Frame(b"small")):
        with pytest.raises(RpcTimeout):
            transport.call(PATH, request, 0.3)
    os.kill(frozen.pid, signal.SIGCONT)
    client = Client(DESCRIPTOR, transport, "the keeper")
    assert client.call_until("WriteCopy", large, DEADLINE_S).lengths == (1 << 25,)
    transport.close()


def test_a_killed_process_is_unavailable_at_once(process, credentials):
    killed, address = process
    transport = StreamTransport(address, credentials)
    transport.call(PATH, Frame(b"a"), DEADLINE_S)
    os.kill(killed.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, killed.pid, os.WSTOPPED | os.WNOWAIT)  # It stops some time later.
    call = transport.start(PATH, Frame(b"b"), 10 * DEADLINE_S)
    killed.kill()
    with pytest.raises(RpcUnavailable) as caught:
        call.result(DEADLINE_S)
    assert not isinstance(caught.value, RpcTimeout)
    with pytest.raises(RpcUnavailable):
        transport.call(PATH, Frame(b"c"), DEADLINE_S)
    transport.close()


def test_faults_are_the_same_over_streams(transport, echo):
    faults = Faults(request_lost=0.2, reply_lost=0.2, in_flight=0.2, duplicated=0.2, seed=3)
    client = Client(DESCRIPTOR, FaultyTransport(transport, faults), "the keeper")
    for number in range(100):
        data = np.full(20_000, number, np.uint8)
        place = bytearray(20_000)
        placement = Placement([20_000], [memoryview(place)])
        client.call_until(
            "WriteCopy", Frame(b"", (bytes_of(data),)), DEADLINE_S, 10.0, placement=placement
        )
        assert placement.is_filled
        assert place == data.tobytes()
    assert len(echo.requests) > 100


# --------------------------------------------------------------------------- memory


def test_memory_comes_back_when_its_last_view_is_gone_and_not_before():
    pool = MemoryPool()
    views = [pool.take(SMALLEST_BYTES)]
    address = np.frombuffer(views[0], np.uint8).ctypes.data
    assert address % ALIGNMENT == 0
    rows = np.frombuffer(views[0], np.float32).reshape(-1, 4)[5:]
    views.clear()
    rows[:] = 7
    other = pool.take(SMALLEST_BYTES)
    other[:] = bytes(SMALLEST_BYTES)
    assert (rows == 7).all()
    assert pool.num_unused_bytes == 0
    del rows
    assert pool.num_unused_bytes >= SMALLEST_BYTES
    again = np.frombuffer(pool.take(SMALLEST_BYTES), np.uint8)
    assert again.ctypes.data == address


def test_no_more_memory_is_kept_than_is_allowed():
    pool = MemoryPool(most_unused_bytes=3 * SMALLEST_BYTES)
    taken = [pool.take(SMALLEST_BYTES) for _ in range(10)]
    taken.clear()
    assert 0 < pool.num_unused_bytes <= 3 * SMALLEST_BYTES
    assert pool.float32s(3, 5).shape == (3, 5)
    assert pool.float32s(0, 5).shape == (0, 5)


def test_a_pool_that_is_full_keeps_what_was_used_last():
    pool = MemoryPool(most_unused_bytes=8 * SMALLEST_BYTES)
    large = pool.take(7 * SMALLEST_BYTES)
    del large
    assert pool.num_unused_bytes == 7 * SMALLEST_BYTES
    small = [pool.take(2 * SMALLEST_BYTES) for _ in range(2)]
    del small
    assert pool.num_unused_bytes == 4 * SMALLEST_BYTES
    too_large = pool.take(9 * SMALLEST_BYTES)
    del too_large
    assert pool.num_unused_bytes == 4 * SMALLEST_BYTES


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_peer_that_reads_a_little_now_and_then_is_given_up_at_the_deadline(family):
    if family == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(0.2):
            theirs.recv(80_000)

    reader = threading.Thread(target=read)
    reader.start()
    connection = Connection(ours)
    frame = Frame(b"", (memoryview(bytes(1 << 26)),))
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="did not read in time"):
            connection.send(frame, "", Status.OK, began + 1.0)
    finally:
        is_over.set()
        reader.join()
        theirs.close()
        connection.close()
    assert time.monotonic() - began < DEADLINE_S


def test_a_server_without_a_thread_for_a_connection_takes_the_next_one(
    server, transport, monkeypatch
):
    start, refused = threading.Thread.start, []

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name == "stream" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    with pytest.raises(RpcUnavailable):
        transport.call(PATH, Frame(b"a"), DEADLINE_S)
    assert refused
    assert transport.call(PATH, Frame(b"b"), DEADLINE_S).head == b"re: b"
    assert len(server._connections) == 1


def test_a_request_that_needs_all_the_room_is_not_overtaken(echo):
    server = StreamServer([Service(DESCRIPTOR, echo)], SECRET, most_bytes=1 << 20)
    may_go_on = threading.Event()
    echo.before = lambda: may_go_on.wait(DEADLINE_S)
    transport = StreamTransport(server.address, SECRET)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        stack.callback(transport.close)
        stack.callback(may_go_on.set)

        def begin(head: bytes, num_bytes: int) -> Future[Frame]:
            request = Frame(head, (memoryview(bytes(num_bytes)),))
            return transport.start(PATH, request, DEADLINE_S)

        calls = [begin(b"first", 64)]
        until(lambda: echo.requests == [b"first"])
        calls.append(begin(b"large", (1 << 20) + 1))
        until(lambda: len(server._room._waiting) == 1)
        calls.append(begin(b"last", 64))
        until(lambda: len(server._room._waiting) == 2)
        may_go_on.set()
        for call in calls:
            call.result(DEADLINE_S)
    assert echo.requests == [b"first", b"large", b"last"]


def test_a_reply_with_an_unknown_status_is_no_reply():
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    theirs.sendall(struct.pack("<IBBHII", MAGIC, 200, 0, 0, 0, 0))
    with pytest.raises(OSError, match="unknown status 200"):
        connection.await_frame(time.monotonic() + DEADLINE_S)
    connection.close()
    theirs.close()
