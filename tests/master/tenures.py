"""A claim to be a job's one master, in a file; and a master that has one, as a process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from elasticdl.instance import parse_arguments, start_logging
from elasticdl.master.__main__ import STEPPED_DOWN, credentials_of, run
from elasticdl.master.cluster.local import LocalBackend
from elasticdl.rpc import GrpcTransport

FILE_NAME = "claim"
RELEASED = "released"
POLL_S = 0.02


class FileTenure:
    """It is sure while a file has its incarnation; released, the file says so."""

    def __init__(self, path: Path, incarnation: int) -> None:
        self.incarnation = incarnation
        self._path = path

    def take(self) -> None:
        """Take what nobody has."""
        while self._path.exists() and self._path.read_text() != RELEASED:
            time.sleep(POLL_S)
        self._path.write_text(str(self.incarnation))

    def is_sure(self) -> bool:
        return self._path.exists() and self._path.read_text() == str(self.incarnation)

    def wait_until_sure(self) -> None:
        while not self.is_sure():
            time.sleep(POLL_S)

    def release(self) -> None:
        self._path.write_text(RELEASED)


def main() -> int:
    """Be a master that goes with SIGTERM, and whose job goes on."""
    arguments = parse_arguments("master")
    start_logging("master", arguments)
    tenure = FileTenure(Path(arguments.spec.job_dir) / FILE_NAME, arguments.incarnation)
    tenure.take()
    transport = GrpcTransport(arguments.supervisor, credentials_of(arguments, tenure))
    backend = LocalBackend(transport, arguments.spec.job_dir)
    outcome = run(arguments, backend, tenure, steps_down=True)
    return STEPPED_DOWN if outcome is None else 0


if __name__ == "__main__":
    sys.exit(main())
