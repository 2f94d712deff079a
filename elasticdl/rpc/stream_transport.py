"""Calls over streams of frames: what parameter servers are called by.

docs/decisions/data-plane.md says why not over gRPC.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from elasticdl.credentials import Credentials
from elasticdl.rpc.connection import MOST_FRAME_BYTES, Connection
from elasticdl.rpc.errors import (
    RpcFailed,
    RpcTimeout,
    RpcUnauthenticated,
    RpcUnavailable,
    Status,
)
from elasticdl.rpc.frame import Frame, Placement
from elasticdl.rpc.stream_address import open_socket
from elasticdl.rpc.tls_connection import CertificateRefused, TlsConnection
from elasticdl.rpc.transport import settle

MOST_IDLE = 16
REST_S = 240.0
"""No connection that rested longer is used again: the server is about to close it, or has."""


class StreamTransport:
    """Connections to one stream server, each for one call at a time.

    As many are opened as there are calls under way at once; those at rest are used again, the last
    one first, and closed when they have rested for long. A connection on which anything went wrong
    is closed, so that nothing late can come over it.

    Args:
      address: `host:port`.
      credentials: what is shown there.
      role: of who is there, as its certificate has to say; nobody asks without TLS.
    """

    def __init__(self, address: str, credentials: Credentials, role: str = "ps") -> None:
        self._address = address
        self._credentials = credentials
        self._context = credentials.client_context
        self._role = role
        self._lock = threading.Lock()
        # With the time since when; the one that has rested for longest comes first.
        self._idle: deque[tuple[float, Connection]] = deque()
        self._busy: set[Connection] = set()
        self._is_closed = False
        self._threads = _Threads()

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        if sum(request.lengths) > MOST_FRAME_BYTES:
            raise RpcFailed(f"{path}: a request of {sum(request.lengths)} bytes is too long")
        deadline = time.monotonic() + timeout_s
        connection: Connection | None = None
        try:
            connection = self._take(deadline)
            connection.send(request, path, Status.OK, deadline)
            announced = connection.await_frame(deadline)
            reply = connection.receive_buffers(announced, deadline, placement)
        except OSError as error:
            self._drop(connection)
            text = f"{path}: {self._address}: {error}"
            if isinstance(error, TimeoutError):
                raise RpcTimeout(f"{text}, within {timeout_s:g} s") from None
            raise RpcUnavailable(text) from None
        except BaseException:
            self._drop(connection)
            raise
        self._give_back(connection)
        if announced.status != Status.OK:
            name = announced.status.name
            raise RpcFailed(f"{path}: {name}: {reply.head.decode(errors='replace')}")
        return reply

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        outcome: Future[Frame] = Future()
        call = partial(self.call, path, request, timeout_s, placement)
        self._threads.run(partial(settle, outcome, call))
        return outcome

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle = self._all_idle()
            for connection in self._busy:
                connection.end()  # Its call closes it.
        for connection in idle:
            connection.close()
        self._threads.close()

    # ------------------------------------------------------------------------ connections

    def _take(self, deadline: float) -> Connection:
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError("the connection was closed on this side")
            worn = self._worn()
            connection = self._idle.pop()[1] if self._idle else None
            if connection is not None:
                self._busy.add(connection)
        for one in worn:
            one.close()
        return self._connect(deadline) if connection is None else connection

    def _worn(self) -> list[Connection]:
        """Take those away that have rested for too long."""
        worn = []
        while self._idle and time.monotonic() - self._idle[0][0] > REST_S:
            worn.append(self._idle.popleft()[1])
        return worn

    def _all_idle(self) -> list[Connection]:
        """Take all away that are at rest."""
        idle = [connection for _, connection in self._idle]
        self._idle.clear()
        return idle

    def _connect(self, deadline: float) -> Connection:
        connection = self._connected(deadline)
        with self._lock:
            self._busy.add(connection)
            if self._is_closed:
                connection.end()
        try:
            connection.secure(deadline)
            said = connection.say_hello(self._credentials, deadline)
        except BaseException as error:
            self._drop(connection)
            if isinstance(error, CertificateRefused):
                raise RpcUnauthenticated(f"{self._address}: {error}") from None
            raise
        if said is Status.OK:
            return connection
        self._drop(connection)
        if said is Status.FAILED_PRECONDITION:
            raise RpcFailed(f"{self._address}: {said.name}: a newer master speaks to it")
        raise RpcUnauthenticated(f"{self._address}: missing or wrong job token, or another job's")

    def _connected(self, deadline: float) -> Connection:
        if self._context is None:
            return Connection(open_socket(self._address, deadline))
        connected = open_socket(self._address, deadline, is_local=False)
        return TlsConnection(connected, self._context, self._role)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            superfluous = self._worn()
            is_wanted = len(self._idle) < MOST_IDLE and not connection.is_worn
            if is_wanted and not self._is_closed:
                self._idle.append((time.monotonic(), connection))
            else:
                superfluous.append(connection)
        for one in superfluous:
            one.close()

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection that failed, and those at rest: the server may be another one now."""
        with self._lock:
            dropped = self._all_idle()
            if connection is not None:
                self._busy.discard(connection)
                dropped.append(connection)
        for one in dropped:
            one.close()


class _Threads:
    """Daemon threads, as many as there are calls under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._num_threads = 0
        self._num_free = 0
        self._is_closed = False

    def run(self, what: Callable[[], None]) -> None:
        """Have a thread run it; once closed, this one."""
        with self._lock:
            is_closed = self._is_closed
            is_new = not is_closed and not self._num_free
            if is_new:
                self._num_threads += 1
            elif not is_closed:
                self._num_free -= 1
            if not is_closed:
                self._waiting.put(what)  # Before what ends the threads.
        if is_closed:
            what()
        elif is_new:
            threading.Thread(target=self._work, name="stream-call", daemon=True).start()

    def _work(self) -> None:
        while (what := self._waiting.get()) is not None:
            what()
            del what  # Its outcome may be large.
            with self._lock:
                self._num_free += 1

    def close(self) -> None:
        """End the threads, each after what it is at."""
        with self._lock:
            self._is_closed = True
            for _ in range(self._num_threads):
                self._waiting.put(None)
            self._num_threads = 0
