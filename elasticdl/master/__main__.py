"""`python -m elasticdl.master`: the master of one job, as a process."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from elasticdl.instance import InstanceArguments, die_with_parent, parse_arguments, start_logging
from elasticdl.master.cluster.local import LocalBackend
from elasticdl.master.coordinator import Outcome
from elasticdl.master.master import Master
from elasticdl.rpc import GrpcTransport, Server

logger = logging.getLogger(__name__)


def run(arguments: InstanceArguments) -> int:
    """Run the job to its end; 0 where it succeeded."""
    backend = LocalBackend(GrpcTransport(arguments.supervisor, arguments.token))
    master = Master(
        arguments.spec,
        backend,
        connect=lambda instance: GrpcTransport(instance.address, arguments.token),
    )
    server = Server([master.service], arguments.token, arguments.master, num_threads=32)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    master.start()
    while not master.coordinator.ended.wait(0.1):
        if stopped.is_set():
            master.coordinator.end(Outcome("stopped", "the job was stopped"))
    outcome = master.finish()
    if outcome.state == "succeeded":
        master.wait_for_workers()
    server.stop()
    master.close()
    logger.info("the job %s", outcome.state)
    return 0 if outcome.state == "succeeded" else 1


def main() -> int:
    """Entry point."""
    die_with_parent()
    arguments = parse_arguments("master")
    start_logging("master", arguments)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
