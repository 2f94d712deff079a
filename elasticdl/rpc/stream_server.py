"""Serves services over streams of frames, to callers that hold the job token."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from elasticdl.credentials import Credentials
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc.connection import Announced, Connection, ConnectionLost, Hello
from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame
from elasticdl.rpc.newest_master import NewestMaster
from elasticdl.rpc.roles import may_call
from elasticdl.rpc.service import Service
from elasticdl.rpc.stream_address import listen
from elasticdl.rpc.tls_connection import CertificateRefused, TlsConnection

logger = logging.getLogger(__name__)

HELLO_S = 10.0
PATIENCE_S = 60.0
"""How long a frame that has begun may take, either way; the other side may be stopped for good."""
MOST_BYTES = 1 << 30
"""Of requests that are being received or answered; a larger one is taken alone."""
REST_S = 300.0
"""How long a connection may be without a call; `StreamTransport` uses none that rested as long."""
ACCEPT_AGAIN_S = 0.1
_WARN_EVERY_S = 30.0


class StreamServer:
    """Answers calls of `StreamTransport`s: a thread for each connection, one call at a time on it.

    Args:
      services, credentials, address: as of `Server`; services may have frames.
      most_bytes: of requests at a time.
      newest_master: that was heard of; older ones are refused.

    Attributes:
      address: where it can be reached.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self,
        services: Sequence[Service],
        credentials: Credentials,
        address: str = "127.0.0.1:0",
        most_bytes: int = MOST_BYTES,
        newest_master: NewestMaster | None = None,
    ) -> None:
        self._newest_master = newest_master or NewestMaster()
        self._services = {path: service for service in services for path in service.paths}
        self._credentials = credentials
        self._context = credentials.server_context
        self._room = _Room(most_bytes)
        self._changed = threading.Condition()
        self._connections: set[Connection] = set()
        self._busy: set[Connection] = set()
        self._is_stopping = False
        self.address, self._listening = listen(address, is_local=self._context is None)
        for each in self._listening:
            threading.Thread(
                target=self._accept, args=(each,), name="stream-accept", daemon=True
            ).start()

    def stop(self, grace_s: float = 0.5) -> None:
        """Refuse new calls, give those in flight `grace_s`, free the port."""
        deadline = time.monotonic() + grace_s
        with self._changed:
            self._is_stopping = True
            for each in self._listening:
                _wake(each)
                each.close()
            for connection in self._connections - self._busy:
                connection.end()
            self._changed.wait_for(lambda: not self._busy, deadline - time.monotonic())
            for connection in self._connections:
                connection.end()
            self._changed.wait_for(lambda: not self._connections, grace_s + 5)

    def _accept(self, listening: socket.socket) -> None:
        warned = -_WARN_EVERY_S
        while True:
            try:
                connected, _ = listening.accept()
                self._begin(self._connection(connected))
            except (OSError, RuntimeError, MemoryError) as error:  # No descriptors, or no threads.
                if self._is_stopping:
                    return
                if time.monotonic() - warned >= _WARN_EVERY_S:
                    warned = time.monotonic()
                    logger.warning("cannot take a connection: %s", error)
                time.sleep(ACCEPT_AGAIN_S)

    def _connection(self, connected: socket.socket) -> Connection:
        if self._context is None:
            return Connection(connected)
        return TlsConnection(connected, self._context, called=None)

    def _begin(self, connection: Connection) -> None:
        """Serve a connection in a thread of its own; close it where there can be none."""
        with self._changed:
            if self._is_stopping:
                connection.close()
                return
            self._connections.add(connection)
        try:
            threading.Thread(
                target=self._serve, args=(connection,), name="stream", daemon=True
            ).start()
        except BaseException:
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()
            connection.close()
            raise

    def _serve(self, connection: Connection) -> None:
        try:
            if self._is_greeted(connection):
                while True:
                    began_by = time.monotonic() + REST_S
                    self._answer(connection, connection.await_frame(began_by, PATIENCE_S))
        except (OSError, MemoryError) as error:
            # The caller is gone, or sees the end of the connection and asks again.
            logger.debug("a connection ended: %s", error)
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()
            connection.close()

    def _is_greeted(self, connection: Connection) -> bool:
        deadline = time.monotonic() + HELLO_S
        try:
            connection.secure(deadline)
        except CertificateRefused:
            REFUSALS.note(Reason.UNAUTHENTICATED)
            raise
        hello = connection.hear_hello(deadline)
        status, reason = Status.OK, self._refusal_of(hello)
        if reason is not None:
            status = Status.UNAUTHENTICATED
        elif not self._newest_master.note(hello.master_incarnation):
            status, reason = Status.FAILED_PRECONDITION, Reason.STALE_MASTER
        if reason is not None:
            REFUSALS.note(reason)
        connection.master_incarnation = hello.master_incarnation
        connection.answer_hello(status, deadline)
        return status is Status.OK

    def _answer(self, connection: Connection, announced: Announced) -> None:
        if connection.master_incarnation:
            self._check_master(connection)
        with self._busy_with(connection):
            with self._room.taken(sum(announced.lengths)):
                request = connection.receive_buffers(announced, time.monotonic() + PATIENCE_S)
                service = self._services.get(announced.name)
                if service is None:
                    status, reply = Status.UNIMPLEMENTED, Frame(b"there is no such method")
                elif connection.peer_role and not may_call(connection.peer_role, announced.name):
                    REFUSALS.note(Reason.FORBIDDEN_ROLE)
                    text = f"no {connection.peer_role} may call it"
                    status, reply = Status.PERMISSION_DENIED, Frame(text.encode())
                else:
                    status, reply = service.answer(announced.name, request)
                del request
            connection.send(reply, "", status, time.monotonic() + PATIENCE_S)

    def _refusal_of(self, hello: Hello) -> Reason | None:
        return self._credentials.refusal(hello.token, hello.job, hello.session)

    def _check_master(self, connection: Connection) -> None:
        """Hear no master any more that was followed by another one."""
        if not self._newest_master.note(connection.master_incarnation):
            REFUSALS.note(Reason.STALE_MASTER)
            raise ConnectionLost("a newer master speaks to this server")

    @contextmanager
    def _busy_with(self, connection: Connection) -> Iterator[None]:
        with self._changed:
            if self._is_stopping:
                raise ConnectionLost("the server stops")
            self._busy.add(connection)
        try:
            yield
        finally:
            self._free(connection)

    def _free(self, connection: Connection) -> None:
        with self._changed:
            self._busy.discard(connection)
            if self._is_stopping:
                connection.end()
                self._changed.notify_all()


class _Room:
    """Bounds the bytes of requests in memory; who came first goes first, however large."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        """Hold room for some bytes; wait while there is none, unless nobody else has any.

        Raises:
          TimeoutError: others took too long.
        """
        if num_bytes:
            self._take(num_bytes)
        try:
            yield
        finally:
            if num_bytes:
                with self._changed:
                    self._num_bytes -= num_bytes
                    self._changed.notify_all()

    def _take(self, num_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                if not self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and self._has_room(num_bytes), PATIENCE_S
                ):
                    raise TimeoutError(f"no room for a request of {num_bytes} bytes")
                self._num_bytes += num_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return not self._num_bytes or self._num_bytes + num_bytes <= self._most_bytes


def _wake(listening: socket.socket) -> None:
    """Let who waits in `accept` return."""
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
