"""`python -m elasticdl.worker.spare`: an idle process, TensorFlow imported, to become a worker.

Its standard input is a socket to the supervisor. It says `READY` there, waits for one line of
JSON, the `Role`, and is that worker from then on; it ends where the socket closes instead.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from elasticdl.instance import die_with_parent
from elasticdl.job_spec import JobSpec
from elasticdl.model.keras_choice import use_keras

READY = b"ready\n"


@dataclass(frozen=True)
class Role:
    """Which worker a spare becomes.

    Attributes:
      arguments: of the command line of `python -m elasticdl.worker`.
      log: the file that its standard output and error go to.
    """

    arguments: Sequence[str]
    log: str

    def to_line(self) -> bytes:
        """As it is sent to the spare."""
        return json.dumps(asdict(self)).encode() + b"\n"


def warm_up(keras: str) -> None:
    """Import all that every worker imports, and compute nothing so far."""
    use_keras(keras)
    for name in ("__main__", "devices", "watchdog", "worker"):
        importlib.import_module(f"elasticdl.worker.{name}")


def wait_for_role() -> Role | None:
    """Tell the supervisor that this process is ready; None where it is not needed any more."""
    with socket.socket(fileno=os.dup(0)) as supervisor, supervisor.makefile("rb") as lines:
        supervisor.sendall(READY)
        line = lines.readline()
    return Role(**json.loads(line)) if line.endswith(b"\n") else None


def take(role: Role) -> None:
    """Have the standard input, output and error of a worker."""
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(role.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for file, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(file, standard)
    os.close(nothing)
    os.close(log)


def main() -> int:
    """Entry point."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m elasticdl.worker.spare")
    parser.add_argument("--job_dir", required=True, help="the job's directory")
    spec = JobSpec.load(parser.parse_args().job_dir)
    warm_up(spec.keras or "3")
    role = wait_for_role()
    if role is None:
        return 0
    take(role)
    from elasticdl.worker import __main__ as worker

    sys.argv = [worker.__file__, *role.arguments]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
