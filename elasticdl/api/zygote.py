"""`python -m elasticdl.api.zygote`: imports what the check and workers need, and forks into them.

So TensorFlow is imported once for a job, not by every process. It has one thread and computes
nothing: who is forked starts TensorFlow's runtime by itself, with the threads and the device of a
worker.

Its standard input is a socket to the supervisor. It says `READY` there once it has imported, then
answers each line, a `Role`, with the process id of a worker. That is a child of the supervisor, not
of this process: it lives on where this one dies. The launcher asks for the check by another socket.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

from elasticdl.early import READY, take_log
from elasticdl.instance import PARENT_VARIABLE, die_with_parent
from elasticdl.model.keras_choice import use_keras
from elasticdl.worker.spare import Role

CHECKS = ("elasticdl.api.preflight", "elasticdl.worker.check", "elasticdl.worker.quiet_import")
"""What the check needs beside what a worker does."""

_STAT_ARG_START = 45  # Of /proc/self/stat, counted from the field after the name.


def import_all(keras: str) -> None:
    """Import what who is forked needs, with nothing for its garbage collector to go through.

    The collector has nothing to find while modules are made, and would look at all of them again
    and again.
    """
    gc.disable()
    use_keras(keras)
    from elasticdl.worker.__main__ import IMPORTS

    for module in (*IMPORTS, *CHECKS):
        importlib.import_module(module)
    gc.freeze()
    gc.enable()


def fork_for(parent: int) -> tuple[int, int]:
    """Fork a leader of a session that is a child of this one's parent, which adopts orphans.

    Args:
      parent: its process id.

    Returns:
      The new process's id, and a file to write to, that has it begin: it ends where that closes
      before. In that process 0 and -1, once it is to begin and its parent is `parent`.

    Raises:
      OSError: there is no room for another process.
    """
    assert os.getppid() == parent
    told, tell = os.pipe()
    begun, begin = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            child = os.fork()
        except OSError:
            os._exit(1)
        if child:
            os._exit(0)
        os.setsid()
        os.write(tell, str(os.getpid()).encode())
        for one in (told, tell, begin):
            os.close(one)
        if not os.read(begun, 1):
            os._exit(1)
        os.close(begun)
        return 0, -1
    os.close(tell)
    os.close(begun)
    with os.fdopen(told, "rb") as answer:
        child = int(answer.read() or 0)
    os.waitpid(between, 0)
    if not child:
        os.close(begin)
        raise OSError("no room for another process")
    return child, begin


def show_as(command: list[str]) -> None:
    """Have `ps` and `pkill -f` see another command line; shortened to the room of the present one.

    Where the system does not say where that is, it stays.
    """
    try:
        stat = Path("/proc/self/stat").read_text()
    except OSError:
        return
    start, end = map(int, stat.rpartition(")")[2].split()[_STAT_ARG_START:][:2])
    room = end - start
    if room <= 0:
        return
    text = b"".join(word.encode() + b"\0" for word in command)[: room - 1]
    ctypes.memmove(start, text.ljust(room, b"\0"), room)


def become(role: Role) -> int:
    """Be a worker, in a process that was forked to be it."""
    from elasticdl.worker import __main__ as worker

    take_log(role.log)
    show_as([sys.executable, "-P", "-m", "elasticdl.worker", *role.arguments])
    sys.argv = [worker.__file__, *role.arguments]
    return worker.main()


def serve(line: socket.socket) -> Role | None:
    """Fork a worker for each line of the supervisor's, to its end.

    Returns:
      In a process that was forked, what it is to be; None in this one.
    """
    parent = os.getppid()
    with line, line.makefile("rb") as asked:
        for text in asked:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)  # Of the check, once it has ended.
            try:
                child, begin = fork_for(parent)
            except OSError:
                line.sendall(b"0\n")  # The supervisor finds out by itself why.
                continue
            if child == 0:
                return Role(**json.loads(text))
            line.sendall(f"{child}\n".encode())  # Before it begins: it must be known.
            os.write(begin, b"\n")
            os.close(begin)
    return None


def fork_check(line: socket.socket, temporary: str) -> None:
    """Have the launcher's check run by a process of its own, and tell the launcher how it ended.

    That process ends with this one.

    Args:
      line: to the launcher: takes a request with the file that is to be standard error, gives what
        `elasticdl.api.preflight.answer` answers, then the exit code, a line each.
      temporary: the directory for temporary files.
    """
    zygote = os.getpid()
    if os.fork():
        return
    with contextlib.suppress(BrokenPipeError):  # The launcher has gone.
        _set_parent(zygote)
        request, (errors, *_), _, _ = socket.recv_fds(line, 1 << 16, 1)
        while not request.endswith(b"\n"):
            request += line.recv(1 << 16) or b"\n"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # Not the supervisor's socket.
        for standard in (1, 2):
            os.dup2(errors, standard)
        watching = os.getpid()
        checking = os.fork()
        if checking:
            _, status = os.waitpid(checking, 0)
            line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            line.shutdown(socket.SHUT_WR)  # Who else may hold it is nobody's to wait for.
            os._exit(0)
        _set_parent(watching)
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        try:
            from elasticdl.api.preflight import answer

            line.sendall(answer(request) + b"\n")
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    os._exit(0)  # TensorFlow's threads, maybe inside the user's function, are not waited for.


def _set_parent(pid: int) -> None:
    os.environ[PARENT_VARIABLE] = str(pid)
    die_with_parent()


def main() -> int:
    """Entry point."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m elasticdl.api.zygote")
    parser.add_argument("--keras", default="3", help="which Keras the job uses")
    parser.add_argument("--check", type=int, help="the launcher's socket")
    parser.add_argument("--temporary", default="", help="directory for the check's files")
    given, _ = parser.parse_known_args()  # The others are only to be seen.
    import_all(given.keras)
    if threading.active_count() > 1:
        names = ", ".join(each.name for each in threading.enumerate()[1:])
        print(f"workers are not forked: there are threads here: {names}", file=sys.stderr)
        return 1
    if given.check is not None:
        os.set_inheritable(given.check, False)
        with socket.socket(fileno=given.check) as launcher:
            fork_check(launcher, given.temporary)
    line = socket.socket(fileno=os.dup(0))
    line.sendall(READY)
    role = serve(line)
    return 0 if role is None else become(role)


if __name__ == "__main__":
    sys.exit(main())
