"""Where streams meet: a TCP port, and on the same machine a Unix socket of the same number."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time

_BACKLOG = 512
_LOOPBACK = ("127.0.0.1", "localhost")


def listen(address: str, is_local: bool = True) -> tuple[str, list[socket.socket]]:
    """Listen at `host:port`; port 0 picks a free one.

    Args:
      address: where.
      is_local: on a loopback address, by a Unix socket, too.

    Returns:
      The address, and the sockets: of TCP and, on a loopback address, of a Unix socket that has no
      file, so that nothing is left of it however this process ends.

    Raises:
      OSError: it cannot be.
    """
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        tcp = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
    address = f"{host}:{tcp.getsockname()[1]}"
    listening = [tcp]
    if is_local and (name := _unix_name(address)) is not None:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            local.bind(name)
            local.listen(_BACKLOG)
            listening.append(local)
        except OSError:
            local.close()  # TCP does, too.
    return address, listening


def open_socket(address: str, deadline: float, is_local: bool = True) -> socket.socket:
    """Connect to whoever listens at an address; `is_local` as of `listen`.

    Raises:
      TimeoutError: not before the deadline, a time of `time.monotonic`.
      OSError: nobody is there.
    """
    if is_local and (name := _unix_name(address)) is not None:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.settimeout(max(0.001, deadline - time.monotonic()))
        # The last is a full backlog.
        with contextlib.suppress(
            ConnectionError, FileNotFoundError, PermissionError, BlockingIOError
        ):
            local.connect(name)
            if _is_ours(local):
                return local
        local.close()
    host, _, port = address.rpartition(":")
    return socket.create_connection(
        (host.strip("[]"), int(port)), timeout=max(0.001, deadline - time.monotonic())
    )


def _is_ours(connected: socket.socket) -> bool:
    """Whether a process of this user listens: anybody may take any name."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack(
        "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return bool(user == os.getuid())


def _unix_name(address: str) -> bytes | None:
    """Return the name in Linux's abstract namespace that goes with a loopback address."""
    host, _, port = address.rpartition(":")
    if sys.platform != "linux" or host not in _LOOPBACK:
        return None
    return f"\0elasticdl/{port}".encode()
