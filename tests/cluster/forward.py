"""Forwards connections between this machine's network and the cluster's: a process for each port.

A socket belongs to the network in which it was made, whatever its process enters later.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tests.cluster import packages
from tests.cluster.machines import Machine, in_cgroup
from tests.cluster.processes import Daemon, wait_until

_START_S = 20
_BLOCK = 1 << 18
_CLONE_NEWNET = 0x40000000


def forward(
    directory: Path, listen: str, connect: str, *, into: Machine, from_outside: bool
) -> str:
    """Have a process that forwards; returns the address that it listens at.

    Args:
      directory: for its files.
      listen: `address:port`; a port of 0 is one that is free.
      connect: `address:port`.
      into: the machine that is the other side.
      from_outside: it listens on this machine and connects in that one; else the other way.
    """
    name = f"forward-{'in' if from_outside else 'out'}-{connect.rpartition(':')[2]}"
    daemon, file = Daemon(directory, name), directory / f"{name}.address"
    if daemon.is_running() and file.exists():
        return file.read_text()
    file.unlink(missing_ok=True)
    side = "--connect_in" if from_outside else "--listen_in"
    command = [sys.executable, "-m", "tests.cluster.forward", f"--listen={listen}"]
    command += [f"--connect={connect}", f"--file={file}", f"{side}={into.pid}"]
    environment = {**packages.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    daemon.start([*in_cgroup(), *command], environment)

    def is_ready() -> bool:
        if not daemon.is_running():
            raise RuntimeError(f"{name} has ended:\n{daemon.end_of_log()}")
        return file.exists()

    wait_until(is_ready, f"{name} listens", _START_S)
    return file.read_text()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--listen_in", default="self")
    parser.add_argument("--connect_in", default="self")
    options = parser.parse_args()
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    _enter(options.listen_in, outside)
    listener = socket.create_server(_split(options.listen), backlog=128)
    _enter(options.connect_in, outside)
    new = options.file.with_suffix(".new")
    new.write_text("{}:{}".format(*listener.getsockname()))
    new.rename(options.file)
    while True:
        caller, _ = listener.accept()
        threading.Thread(target=_serve, args=(caller, _split(options.connect)), daemon=True).start()


def _enter(pid: str, outside: int) -> None:
    """Enter the network of a process; threads that are started later are in it, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = outside if pid == "self" else os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"the network of {pid} cannot be entered")


def _serve(caller: socket.socket, address: tuple[str, int]) -> None:
    with caller:
        try:
            called = socket.create_connection(address, timeout=10)
        except OSError:
            return
        with called:
            called.settimeout(None)
            for one in (caller, called):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=_copy, args=(called, caller), daemon=True)
            answers.start()
            _copy(caller, called)
            answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, and say so to the target."""
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
