"""One stream of frames between two processes: how a frame is laid out there, and its deadlines.

A frame is a prefix (magic u32, status u8, unused u8, length of the name u16, length of the head
u32, number of buffers u32; little-endian), the lengths of the buffers u64 each, name, head, and the
buffers without anything between them. A request's name is its path; a reply's is empty.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.credentials import Credentials
from elasticdl.memory import POOL
from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame, Placement, rest_of

MAGIC = 0x314C4445
MOST_BUFFERS = 1 << 16
MOST_HEAD_BYTES = 1 << 28
MOST_FRAME_BYTES = 1 << 34
_PREFIX = struct.Struct("<IBBHII")
_HELLO = struct.Struct("<IHHHQ")
_ANSWER = struct.Struct("<IB")
_MOST_PIECES = 512  # Of one system call; the system's limit is 1,024.
_NOT_LATE = 0.9
_MICROSECONDS = 1_000_000
_MILLISECONDS = 1_000
_GONE_S = 60
_LONGEST_RECEIVE_S = 60.0
_SEND_BYTES = 1 << 21


class ConnectionLost(OSError):
    """The other side closed the connection, or says what is no frame."""


@dataclass(frozen=True)
class Hello:
    """Who connects: what it shows, and which master it is; 0 if it is none."""

    token: str
    job: str
    session: str
    master_incarnation: int


@dataclass(frozen=True)
class Announced:
    """A frame whose buffers have not been read yet.

    lengths: bytes of each buffer.
    """

    status: Status
    name: str
    head: bytes
    lengths: tuple[int, ...]


class Connection:
    """A connected socket. Used by one thread at a time; `end` may be called by any.

    Deadlines are times of `time.monotonic`. What passes its deadline raises TimeoutError, whatever
    else goes wrong another OSError, and then the connection is of no use any more.

    Args:
      connected: the socket, which is closed with this.

    Attributes:
      peer_role: of the other side, as its certificate says; empty where there is none.
      is_worn: it is not to be used for further calls.
      master_incarnation: of who called, if it is a master, and 0 else.
    """

    peer_role: str = ""
    is_worn: bool = False
    master_incarnation: int = 0

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._receive_limit_s = math.nan  # None so far: it is like no other.
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connected, select.POLLIN)
        self._writable.register(connected, select.POLLOUT)
        connected.settimeout(None)
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(connected)
        else:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)

    # ------------------------------------------------------------------- the first words

    def secure(self, deadline: float) -> None:
        """Make sure of who the other side is, before anything is said; here nobody asks."""

    def say_hello(self, credentials: Credentials, deadline: float) -> Status:
        """Show the job token and who this is; return what the other side says to it."""
        said = [each.encode() for each in (credentials.token, credentials.job, credentials.session)]
        first = _HELLO.pack(MAGIC, *map(len, said), credentials.master_incarnation)
        self._send([memoryview(b"".join((first, *said)))], deadline)
        magic, status = _ANSWER.unpack(self._receive(_ANSWER.size, deadline))
        if magic != MAGIC:
            raise ConnectionLost("what answers is no server of streams")
        return _status(status)

    def hear_hello(self, deadline: float) -> Hello:
        """Return what the other side shows."""
        first = self._receive(_HELLO.size, deadline)
        magic, *lengths, master_incarnation = _HELLO.unpack(first)
        if magic != MAGIC:
            raise ConnectionLost("it is no client of ours")
        token, job, session = (
            self._receive(length, deadline).decode(errors="replace") for length in lengths
        )
        return Hello(token, job, session, master_incarnation)

    def answer_hello(self, status: Status, deadline: float) -> None:
        """Say whether who connects may call."""
        self._send([memoryview(_ANSWER.pack(MAGIC, status))], deadline)

    # ----------------------------------------------------------------------------- frames

    def send(self, frame: Frame, name: str, status: Status, deadline: float) -> None:
        """Send a frame."""
        lengths, text = frame.lengths, name.encode()
        prefix = _PREFIX.pack(MAGIC, status, 0, len(text), len(frame.head), len(lengths))
        meta = b"".join((prefix, struct.pack(f"<{len(lengths)}Q", *lengths), text, frame.head))
        self._send([memoryview(meta), *frame.pieces], deadline)

    def await_frame(self, deadline: float, patience_s: float | None = None) -> Announced:
        """Receive all of a frame but its buffers.

        Args:
          deadline: until when all that must be there.
          patience_s: how long the rest may take once it has begun; the deadline is that of the
            beginning then.
        """
        prefix = self._receive(_PREFIX.size, deadline)
        if patience_s is not None:
            deadline = time.monotonic() + patience_s
        magic, status, _, name_length, head_length, num_buffers = _PREFIX.unpack(prefix)
        if magic != MAGIC or num_buffers > MOST_BUFFERS or head_length > MOST_HEAD_BYTES:
            raise ConnectionLost("what came is no frame")
        lengths_end = 8 * num_buffers
        rest = bytes(self._receive(lengths_end + name_length + head_length, deadline))
        lengths = struct.unpack_from(f"<{num_buffers}Q", rest)
        if sum(lengths) > MOST_FRAME_BYTES:
            raise ConnectionLost(f"a frame of {sum(lengths)} bytes is too long")
        head_start = lengths_end + name_length
        name = rest[lengths_end:head_start].decode(errors="replace")
        return Announced(_status(status), name, rest[head_start:], lengths)

    def receive_buffers(
        self, announced: Announced, deadline: float, placement: Placement | None = None
    ) -> Frame:
        """Receive the rest of a frame, straight to where it is to be."""
        if not announced.lengths:
            return Frame(announced.head)
        if placement is not None and placement.accept(announced.lengths):
            self._fill(placement.pieces, deadline)
            return Frame(announced.head)
        buffers = tuple(POOL.take(length) for length in announced.lengths)
        self._fill([one for one in buffers if one.nbytes], deadline)
        return Frame(announced.head, buffers)

    def end(self) -> None:
        """Wake whoever waits for the other side: it will not be heard of any more."""
        with contextlib.suppress(OSError):  # It has ended already.
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket; nobody uses it."""
        self._socket.close()

    # ------------------------------------------------------------------------------ bytes

    def _receive(self, num_bytes: int, deadline: float) -> bytearray:
        received = bytearray(num_bytes)
        if num_bytes:
            self._fill([memoryview(received)], deadline)
        return received

    def _fill(self, places: Sequence[memoryview], deadline: float) -> None:
        left = places
        while left:
            # Python calls again what a signal interrupts: a poll for the time that is left, but a
            # receive for all of its own. That is only interrupted as long as nothing is there.
            if not self._readable.poll(_milliseconds_until(deadline)):
                raise TimeoutError("nothing came in time")
            self._limit(deadline)
            try:
                # The kernel waits until all is full: one call, and one turn of the interpreter.
                count = self._socket.recvmsg_into(left[:_MOST_PIECES], 0, socket.MSG_WAITALL)[0]
            except BlockingIOError:
                continue
            if not count:
                raise ConnectionLost("the other side closed the connection")
            left = rest_of(left, count)

    def _send(self, pieces: Sequence[memoryview], deadline: float) -> None:
        left = pieces
        while left:
            try:
                # Linux bounds the wait for each part of what is sent by SO_SNDTIMEO, not the whole.
                count = self._socket.sendmsg(left[:_MOST_PIECES], (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._await_room(deadline)
                continue
            left = rest_of(left, count)

    def _await_room(self, deadline: float) -> None:
        """Return once the kernel takes more to send."""
        if not self._writable.poll(_milliseconds_until(deadline)):
            raise TimeoutError("the other side did not read in time")

    def _limit(self, deadline: float) -> None:
        """Let the next call that receives end by the deadline; told anew only if that matters."""
        seconds = max(0.0, min(_LONGEST_RECEIVE_S, deadline - time.monotonic()))
        limit = self._receive_limit_s
        if limit * _NOT_LATE <= seconds <= limit:
            return
        whole = max(1, int(seconds * _MICROSECONDS))
        timeval = struct.pack("@ll", *divmod(whole, _MICROSECONDS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._receive_limit_s = seconds


def _milliseconds_until(deadline: float) -> float:
    """Return how long a poll may wait; TimeoutError if it may not."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("it took too long")
    return seconds * _MILLISECONDS


def _status(value: int) -> Status:
    try:
        return Status(value)
    except ValueError:
        raise ConnectionLost(f"what came has the unknown status {value}") from None


def _keep_alive(connected: socket.socket) -> None:
    """Have the kernel find out about a machine that is gone, within a minute."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        # Nobody probes while something that was sent is not acknowledged.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_S * _MILLISECONDS)
