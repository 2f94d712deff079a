"""Ways for bytes to get from one process to another and back, each a server and a client."""

from __future__ import annotations

import json
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np

from elasticdl.credentials import Credentials
from elasticdl.memory import POOL, aligned
from elasticdl.proto import ps_pb2
from elasticdl.rpc import Frame, Placement, Service, StreamServer, StreamTransport
from elasticdl.rpc.frame import bytes_of
from elasticdl.rpc.roles import PS
from elasticdl.rpc.transport import CHANNEL_OPTIONS

_SIZES = struct.Struct("<QQ")
_PUSH = ps_pb2.DESCRIPTOR.services_by_name["Standby"]
_PATH = f"/{_PUSH.full_name}/WriteCopy"
_CREDENTIALS = Credentials("token", "wire")
_TIMEOUT_S = 120.0


class Client(Protocol):
    """Sends bytes and receives bytes."""

    def call(self, data: np.ndarray, reply_bytes: int) -> Any:
        """Send uint8 ``[n]`` and return that many bytes, each 1."""
        ...


class Replies:
    """The server's arrays of ones, made once for each length."""

    def __init__(self) -> None:
        self._made: dict[int, np.ndarray] = {}

    def of(self, num_bytes: int) -> np.ndarray:
        """Return uint8 ``[num_bytes]``."""
        if num_bytes not in self._made:
            self._made[num_bytes] = aligned(num_bytes)
            self._made[num_bytes][:] = 1
        return self._made[num_bytes]


# --------------------------------------------------------------------- raw sockets


def serve_sockets(listening: socket.socket) -> None:
    """Answer on raw sockets: lengths, then bytes, into memory that is there already."""
    replies, taken = Replies(), Replies()

    def answer(connected: socket.socket) -> None:
        _without_delay(connected)
        while len(sizes := connected.recv(_SIZES.size, socket.MSG_WAITALL)) == _SIZES.size:
            num_bytes, reply_bytes = _SIZES.unpack(sizes)
            _receive(connected, taken.of(num_bytes))
            connected.sendall(replies.of(reply_bytes).data)

    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


def _without_delay(connected: socket.socket) -> None:
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(connected: socket.socket, into: np.ndarray) -> None:
    view, received = into.data, 0
    while received < len(into):
        received += connected.recv_into(view[received:])


def _serve_tcp() -> str:
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_sockets, args=(listening,), daemon=True).start()
    return str(listening.getsockname()[1])


def _serve_unix() -> str:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")  # The kernel gives it a name without a file.
    listening.listen()
    threading.Thread(target=serve_sockets, args=(listening,), daemon=True).start()
    return bytes(listening.getsockname()).hex()


class _Sockets:
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._taken = Replies()
        _without_delay(connected)

    def call(self, data: np.ndarray, reply_bytes: int) -> np.ndarray:
        self._socket.sendall(_SIZES.pack(len(data), reply_bytes))
        self._socket.sendall(data.data)
        reply = self._taken.of(reply_bytes)
        _receive(self._socket, reply)
        return reply


def _connect_tcp(address: str) -> Client:
    return _Sockets(socket.create_connection(("127.0.0.1", int(address))))


def _connect_unix(address: str) -> Client:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(bytes.fromhex(address))
    return _Sockets(connected)


# ----------------------------------------------------------------------------- gRPC


def _serve_grpc() -> str:
    replies = Replies()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        reply_bytes, _ = _SIZES.unpack_from(request)
        return b"".join([bytes(64), replies.of(reply_bytes).data])

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()], options=CHANNEL_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _kept.append(server)
    return str(port)


class _Grpc:
    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{address}", options=CHANNEL_OPTIONS)
        self._call = channel.unary_unary("/bytes/Move")

    def call(self, data: np.ndarray, reply_bytes: int) -> memoryview:
        return memoryview(self._call(b"".join([_SIZES.pack(reply_bytes, 0), data.data])))[64:]


# ------------------------------------------------------------------- Arrow Flight


def _serve_flight() -> str:
    from pyarrow import flight

    replies = Replies()

    class Server(flight.FlightServerBase):
        def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            has_begun = False
            for chunk in reader:
                reply_bytes, _ = _SIZES.unpack(chunk.app_metadata.to_pybytes())
                batch = _batch(replies.of(reply_bytes))
                if not has_begun:
                    writer.begin(batch.schema)
                    has_begun = True
                writer.write_with_metadata(batch, b"reply")

    server = Server("grpc://127.0.0.1:0")
    _kept.append(server)
    return str(server.port)


def _batch(array: np.ndarray) -> Any:
    """Return one row of one binary column: Arrow's way to carry bytes as they lie."""
    import pyarrow as pa

    offsets = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])
    return pa.RecordBatch.from_arrays([column], names=["bytes"])


class _Flight:
    """One exchange for all calls."""

    def __init__(self, address: str) -> None:
        from pyarrow import flight

        self._client = flight.FlightClient(f"grpc://127.0.0.1:{address}")
        descriptor = flight.FlightDescriptor.for_command(b"move")
        self._writer, self._reader = self._client.do_exchange(descriptor)
        self._has_begun = False

    def call(self, data: np.ndarray, reply_bytes: int) -> Any:
        batch = _batch(data)
        if not self._has_begun:
            self._writer.begin(batch.schema)
            self._has_begun = True
        self._writer.write_with_metadata(batch, _SIZES.pack(reply_bytes, 0))
        return self._reader.read_chunk().data.column(0).buffers()[2]


# ------------------------------------------------------------------- our streams


class _Echo:
    """A service whose replies are as long as the head says."""

    def __init__(self) -> None:
        self._replies = Replies()

    def write_copy(self, frame: Frame) -> Frame:
        reply_bytes, _ = _SIZES.unpack(frame.head)
        return Frame(b"", (bytes_of(self._replies.of(reply_bytes)),))

    def __getattr__(self, name: str) -> Any:
        return self.write_copy


def _serve_tls() -> str:
    """Serve with certificates made here; the address has those of the client, too."""
    from elasticdl.api.kubernetes.certificates import make_certificates, write_credentials

    with tempfile.TemporaryDirectory() as directory:
        secret = make_certificates(_CREDENTIALS.job)
        write_credentials(secret, PS, directory)
        credentials = Credentials.of_directory(directory)
        server = StreamServer([Service(_PUSH, _Echo())], credentials, "127.0.0.2:0")
        files = {path.name: path.read_text() for path in Path(directory).iterdir()}
    _kept.append(server)
    return json.dumps({"address": server.address, "files": files})


def _connect_tls(address: str) -> Client:
    said = json.loads(address)
    with tempfile.TemporaryDirectory() as directory:
        for name, text in said["files"].items():
            (Path(directory) / name).write_text(text)
        return _Streams(said["address"], Credentials.of_directory(directory))


def _serve_streams(host: str) -> str:
    server = StreamServer([Service(_PUSH, _Echo())], _CREDENTIALS, f"{host}:0")
    _kept.append(server)
    return server.address


class _Streams:
    def __init__(self, address: str, credentials: Credentials = _CREDENTIALS) -> None:
        self._transport = StreamTransport(address, credentials)

    def call(self, data: np.ndarray, reply_bytes: int) -> memoryview:
        reply = POOL.take(reply_bytes)
        placement = Placement([reply_bytes], [reply])
        request = Frame(_SIZES.pack(reply_bytes, 0), (bytes_of(data),))
        self._transport.call(_PATH, request, _TIMEOUT_S, placement)
        return reply


_kept: list[Any] = []

SERVERS: dict[str, Callable[[], str]] = {
    "tcp": _serve_tcp,
    "unix": _serve_unix,
    "grpc": _serve_grpc,
    "flight": _serve_flight,
    "tls": _serve_tls,
    "streams-tcp": lambda: _serve_streams("127.0.0.2"),
    "streams": lambda: _serve_streams("127.0.0.1"),
}
"""Each starts to serve and returns its address."""

CLIENTS: dict[str, Callable[[str], Client]] = {
    "tcp": _connect_tcp,
    "unix": _connect_unix,
    "grpc": _Grpc,
    "flight": _Flight,
    "tls": _connect_tls,
    "streams-tcp": _Streams,
    "streams": _Streams,
}
