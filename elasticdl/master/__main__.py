"""`python -m elasticdl.master`: the master of one job, as a process."""

from __future__ import annotations

import dataclasses
import logging
import socket
import sys

from elasticdl.dashboard.of_master import dashboard_of
from elasticdl.data.filesystems import use_stores_of
from elasticdl.early import wait_for_job
from elasticdl.instance import (
    InstanceArguments,
    die_with_parent,
    on_sigterm,
    parse_arguments,
    start_logging,
)
from elasticdl.master.cluster.local import LocalBackend
from elasticdl.master.garbage import collect_rarely
from elasticdl.master.master import Master
from elasticdl.master.story import Outcome
from elasticdl.phases import PHASES
from elasticdl.rpc import GrpcTransport, Server, StreamTransport
from elasticdl.trace_file import trace_instance

logger = logging.getLogger(__name__)


def run(arguments: InstanceArguments) -> int:
    """Run the job to its end, from where the master before this one was; 0 where it succeeded."""
    collect_rarely()
    use_stores_of(arguments.spec)
    credentials = dataclasses.replace(
        arguments.credentials, master_incarnation=arguments.incarnation
    )
    transport = GrpcTransport(arguments.supervisor, credentials)
    backend = LocalBackend(transport, arguments.spec.job_dir)
    master = Master(
        arguments.spec,
        backend,
        connect=lambda instance: StreamTransport(instance.address, credentials),
        incarnation=arguments.incarnation,
        session=arguments.session,
    )
    server = Server([master.service], credentials, arguments.master, num_threads=32)
    on_sigterm(lambda: master.coordinator.end(Outcome("stopped", "the job was stopped")))
    master.start()
    dashboard = None
    if arguments.dashboard is not None:
        listening = socket.socket(fileno=arguments.dashboard)
        dashboard = dashboard_of(arguments.spec, master, arguments.incarnation, listening)
        dashboard.start()
    while not master.coordinator.ended.wait(1.0):
        pass
    outcome = master.finish()
    if outcome.state == "succeeded":
        master.wait_for_workers()
    if dashboard is not None:
        dashboard.stop()
    server.stop()
    master.close()
    logger.info("the job %s", outcome.state)
    return 0 if outcome.state == "succeeded" else 1


def main() -> int:
    """Entry point."""
    die_with_parent()
    if not wait_for_job(()):
        return 0
    arguments = parse_arguments("master")
    start_logging("master", arguments)
    if arguments.spec.profile:
        trace_instance(arguments.spec.job_dir, "master", 0, arguments.incarnation)
    try:
        return run(arguments)
    finally:
        PHASES.close()


if __name__ == "__main__":
    sys.exit(main())
