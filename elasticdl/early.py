"""Instances that are started before their job is there, and import meanwhile what they need.

Such a process has `EARLY` on its command line, and a socket to the supervisor as standard input.
It says `READY` there once it has imported, and waits for a line, the path of its log; it is an
instance like any other from then on. It ends where the socket closes instead.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
from collections.abc import Sequence

EARLY = "--early"
READY = b"ready\n"


def wait_for_job(modules: Sequence[str]) -> bool:
    """Return once this process's job is there; at once for a process that was not started early.

    Args:
      modules: what to import meanwhile.

    Returns:
      Whether it is; false where the job came to nothing.
    """
    if EARLY not in sys.argv:
        return True
    for module in modules:
        importlib.import_module(module)
    log = wait_for_line().decode()
    if not log:
        return False
    take_log(log)
    return True


def wait_for_line() -> bytes:
    """Tell the supervisor that this process is ready; return what it says then, b"" for nothing."""
    with socket.socket(fileno=os.dup(0)) as supervisor, supervisor.makefile("rb") as lines:
        supervisor.sendall(READY)
        line = lines.readline()
    return line[:-1] if line.endswith(b"\n") else b""


def take_log(path: str) -> None:
    """Have the standard input, output and error of an instance whose log this is."""
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for file, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, standard)
    os.close(nothing)
    os.close(log)
    tempfile.tempdir = None  # The job's own directory for it may not have been there before.
