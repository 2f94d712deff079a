"""A stream of frames between two processes that have shown each other certificates: TLS 1.3.

`ssl` has neither `sendmsg` nor `recvmsg_into`, so what is written is put together up to a record's
length, and what arrives is read place by place, a record at a time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

from elasticdl.credentials import Credentials, name_of, role_of
from elasticdl.rpc.connection import Connection, ConnectionLost
from elasticdl.rpc.errors import Status

RECORD_BYTES = 1 << 14
"""That TLS encrypts at a time, at most."""
MOST_BYTES = 1 << 38
"""Of a connection: one key is good for 2^24.5 records. Then another connection is opened."""
_NOT_LATE = 0.9
_LINGER_S = 0.5
_MOST_UNREAD = 16


class CertificateRefused(OSError):
    """One side did not accept the other's certificate, or there was none."""


class TlsConnection(Connection):
    """A `Connection` whose bytes nobody between can read or change.

    Args:
      connected: as of `Connection`.
      context: has this side's certificate.
      called: the role of the other side; None where the other side calls.
    """

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, called: str | None
    ) -> None:
        super().__init__(connected)
        self._context = context
        self._called = called
        self._num_bytes = 0
        self._limit_s = 0.0
        # `end` is told to another thread's socket, which is replaced once.
        self._replacing = threading.Lock()

    def secure(self, deadline: float) -> None:
        """Show this side's certificate and check the other's.

        Raises:
          CertificateRefused: it is of another authority, of another role, expired, or missing.
        """
        is_server = self._called is None
        with self._replacing:
            self._socket = self._context.wrap_socket(
                self._socket,
                server_side=is_server,
                do_handshake_on_connect=False,
                server_hostname=None if self._called is None else name_of(self._called),
            )
        secured = self._socket
        assert isinstance(secured, ssl.SSLSocket)
        self._await(deadline)
        try:
            secured.do_handshake()
        except ssl.SSLEOFError:
            raise
        except ssl.SSLError as error:
            if is_server:
                self._let_the_alert_arrive()
            if is_server or isinstance(error, ssl.SSLCertVerificationError):
                raise CertificateRefused(f"its certificate is refused: {_told(error)}") from None
            raise _refusal(error) from None
        shown = secured.getpeercert() or {}
        names = shown.get("subjectAltName", ())
        self.peer_role = role_of(str(one[1]) for one in names)

    def say_hello(self, credentials: Credentials, deadline: float) -> Status:
        # In TLS 1.3 a client is ready before the server has seen its certificate.
        try:
            return super().say_hello(credentials, deadline)
        except ssl.SSLError as error:
            raise _refusal(error) from None
        except ConnectionError as lost:
            try:
                self._receive(1, deadline)
            except ssl.SSLError as error:
                raise _refusal(error) from None
            except OSError:
                pass
            raise lost from None

    def end(self) -> None:
        # Not that of SSLSocket, which would let the other thread read what is encrypted.
        with self._replacing, contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    # ------------------------------------------------------------------------------ bytes

    def _fill(self, places: Sequence[memoryview], deadline: float) -> None:
        receive = self._socket.recv_into
        for place in places:
            left = place
            while left:
                self._await(deadline)
                try:
                    count = receive(left)
                except TimeoutError:
                    raise TimeoutError("nothing came in time") from None
                if not count:
                    raise ConnectionLost("the other side closed the connection")
                left = left[count:]
            self._count(place.nbytes)

    def _send(self, pieces: Sequence[memoryview], deadline: float) -> None:
        send = self._socket.send
        for piece in _joined(pieces):
            left = piece
            while left:
                self._await(deadline)
                try:
                    count = send(left)
                except TimeoutError:
                    raise TimeoutError("the other side did not read in time") from None
                left = left[count:]
            self._count(piece.nbytes)

    def _await(self, deadline: float) -> None:
        """Let the next call wait until the deadline; told anew only if that matters."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("it took too long")
        if not self._limit_s * _NOT_LATE <= seconds <= self._limit_s:
            self._socket.settimeout(seconds)
            self._limit_s = seconds

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > MOST_BYTES:
            self.is_worn = True

    def _let_the_alert_arrive(self) -> None:
        """Read what is under way here: closed before, the other side would not hear the reason."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._socket.settimeout(_LINGER_S)
            for _ in range(_MOST_UNREAD):
                if not socket.socket.recv(self._socket, RECORD_BYTES):
                    return


def _joined(pieces: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the bytes of all pieces: long ones as they are, others put together."""
    gathered: list[memoryview] = []
    num_bytes = 0
    for piece in pieces:
        left = piece
        if gathered or left.nbytes < RECORD_BYTES:
            while left and (gathered or left.nbytes < RECORD_BYTES):
                part = left[: RECORD_BYTES - num_bytes]
                gathered.append(part)
                num_bytes += part.nbytes
                left = left[part.nbytes :]
                if num_bytes == RECORD_BYTES:
                    yield memoryview(b"".join(gathered))
                    gathered, num_bytes = [], 0
        if left:
            yield left
    if gathered:
        yield memoryview(b"".join(gathered))


def _refusal(error: ssl.SSLError) -> OSError:
    """Return what it was if the other side gave a reason, else the error."""
    if "ALERT" in (error.reason or ""):
        return CertificateRefused(f"it refuses this side's certificate: {_told(error)}")
    return error


def _told(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).lower().replace("_", " ")
