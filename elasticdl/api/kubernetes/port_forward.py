"""Reaches a port of a job's master from this machine, through the apiserver."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable

from websocket import ABNF, WebSocket, WebSocketException

from elasticdl.errors import JobError, UsageError
from elasticdl.master.cluster.kubernetes.client import KubeClient, NotFound
from elasticdl.master.cluster.kubernetes.names import claim_name

logger = logging.getLogger(__name__)

SILENCE_S = 60.0
"""A connection on which neither side said anything for so long is closed."""
SEND_S = 30.0
_DATA, _TROUBLE = b"\x00", b"\x01"
_BLOCK = 1 << 16
_PORT_BYTES = 2  # Each channel begins with the port's number.


class NoMaster(JobError):
    """The job has no master at the moment."""


def master_pod(client: KubeClient, name: str) -> str:
    """The pod of a job's master: the one that the claim names, of several that there may be.

    Args:
      name: of the Job.

    Raises:
      NoMaster: there is none so far.
      KubeError: the apiserver refuses, or is away.
    """
    try:
        claim = client.get("ConfigMap", claim_name(name))
    except NotFound:
        raise NoMaster(f"job '{name}': it has no master so far") from None
    data = claim.get("data") or {}
    if not data.get("pod") or data.get("released"):
        raise NoMaster(f"job '{name}': it has no master at the moment")
    pod: str = data["pod"]
    return pod


class PortForward:
    """Listens on this machine's loopback interface for connections to a port of a pod.

    Args:
      client: of the pod's namespace.
      pod: which it is, asked at each connection: a master may have been replaced.
      port: of the pod.
      own_port: of this machine, where to listen; 0: any.

    Raises:
      UsageError: somebody else listens there.

    Attributes:
      address: host:port, where to connect.
    """

    def __init__(
        self, client: KubeClient, pod: Callable[[], str], port: int, own_port: int = 0
    ) -> None:
        self._client = client
        self._pod = pod
        self._port = port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False
        try:
            self._listener = socket.create_server(("127.0.0.1", own_port), backlog=32)
        except OSError as error:
            raise UsageError(f"port {own_port}: {error.strerror}; give another one") from None
        host, number = self._listener.getsockname()
        self.address = f"{host}:{number}"
        self._accepting = threading.Thread(target=self._accept, name="port-forward", daemon=True)
        self._accepting.start()

    def __enter__(self) -> str:
        return self.address

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and all connections."""
        with self._lock:
            self._is_closed = True
            ended = list(self._open)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._accepting.join()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_closed:
                    caller.close()
                    return
                self._open.add(caller)
            threading.Thread(
                target=self._serve, args=(caller,), name="port-forward", daemon=True
            ).start()

    def _serve(self, caller: socket.socket) -> None:
        try:
            pod = self._client.open_port(self._pod(), self._port)
            try:
                _copy(caller, pod)
            finally:
                pod.shutdown()
        except (JobError, WebSocketException, OSError, ValueError) as error:
            # The caller hears that the connection has ended, and asks again.
            logger.debug("forwarding port %d: %s", self._port, error)
        finally:
            with self._lock:
                self._open.discard(caller)
            caller.close()


def _copy(caller: socket.socket, pod: WebSocket) -> None:
    """Copy in both directions, in one thread: a TLS connection takes no two.

    A web socket has no end of one direction: what ends first ends both.
    """
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    caller.settimeout(SEND_S)
    pod.settimeout(SEND_S)
    incoming = _Incoming()
    socket_of_pod = pod.sock
    assert socket_of_pod is not None, "it is connected"
    with selectors.DefaultSelector() as waits:
        for one in (caller, socket_of_pod):
            waits.register(one, selectors.EVENT_READ)
        while True:
            is_pending = isinstance(socket_of_pod, ssl.SSLSocket) and socket_of_pod.pending() > 0
            ready = {key.fileobj for key, _ in waits.select(0 if is_pending else SILENCE_S)}
            ready |= {socket_of_pod} if is_pending else set()
            if not ready:
                return
            if caller in ready:
                block = caller.recv(_BLOCK)
                if not block:
                    return
                pod.send(_DATA + block, ABNF.OPCODE_BINARY)
            if socket_of_pod in ready:
                frame = pod.recv_frame()
                if frame.opcode == ABNF.OPCODE_CLOSE:
                    return
                if frame.opcode == ABNF.OPCODE_PING:
                    pod.pong(frame.data)
                elif content := incoming.content_of(frame):
                    caller.sendall(content)


class _Incoming:
    """Reads what comes from a pod."""

    def __init__(self) -> None:
        self._channel = b""
        self._skipped = {_DATA: 0, _TROUBLE: 0}

    def content_of(self, frame: ABNF) -> bytes:
        """What a frame has for the caller; OSError where it tells what went wrong."""
        content = frame.data.encode() if isinstance(frame.data, str) else bytes(frame.data)
        if frame.opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT):
            self._channel, content = content[:1], content[1:]
        elif frame.opcode != ABNF.OPCODE_CONT:
            return b""
        skipped = self._skipped.get(self._channel, _PORT_BYTES)
        left = min(_PORT_BYTES - skipped, len(content))
        self._skipped[self._channel] = skipped + left
        if self._channel == _TROUBLE and content[left:]:
            raise OSError(content[left:].decode(errors="replace"))
        return content[left:] if self._channel == _DATA else b""
