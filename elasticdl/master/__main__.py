"""`python -m elasticdl.master`: the master of one job, as a process."""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable

from elasticdl.credentials import Credentials
from elasticdl.dashboard.of_master import dashboard_of
from elasticdl.data.filesystems import use_stores_of
from elasticdl.early import wait_for_job
from elasticdl.errors import UsageError
from elasticdl.instance import (
    InstanceArguments,
    die_with_parent,
    on_sigterm,
    parse_arguments,
    start_logging,
)
from elasticdl.master.cluster.backend import Backend
from elasticdl.master.cluster.local import LocalBackend
from elasticdl.master.door import Door
from elasticdl.master.garbage import collect_rarely
from elasticdl.master.job_files import RESULT_FILE, failed, result_content
from elasticdl.master.journal import Mirror
from elasticdl.master.kept_files import KeptFiles
from elasticdl.master.master import Master
from elasticdl.master.story import Outcome
from elasticdl.master.tenure import LocalTenure, Tenure
from elasticdl.phases import PHASES
from elasticdl.rpc import GrpcTransport, Server, StreamTransport
from elasticdl.trace_file import trace_instance

logger = logging.getLogger(__name__)


WAIT_S = 1.0
NUM_THREADS = 32
STEPPED_DOWN = 128 + signal.SIGTERM
"""Exit code of a master that goes so that another one goes on."""


def credentials_of(arguments: InstanceArguments, tenure: Tenure) -> Credentials:
    """What this master shows: also which one it is."""
    return dataclasses.replace(arguments.credentials, master_incarnation=tenure.incarnation)


def run(
    arguments: InstanceArguments,
    backend: Backend,
    tenure: Tenure,
    steps_down: bool = False,
    on_replaced: Callable[[], None] = lambda: None,
    on_begun: Callable[[Master], None] = lambda master: None,
) -> Outcome | None:
    """Run the job to its end, from where the master before this one was.

    Args:
      arguments: of this instance.
      backend: runs the job's other instances.
      tenure: tells whether this is the job's one master; it is sure when this is called.
      steps_down: SIGTERM is about this master, and not about the job.
      on_replaced: called, from any thread and maybe often, when a caller knows of a later master.
      on_begun: called with the master once it has begun.

    Returns:
      How the job ended, written down; None where it has not, and another master is to go on.
    """
    collect_rarely()
    use_stores_of(arguments.spec)
    credentials = credentials_of(arguments, tenure)
    try:
        master = Master(
            arguments.spec,
            backend,
            connect=lambda instance: StreamTransport(instance.address, credentials),
            incarnation=tenure.incarnation,
            session=arguments.session,
            tenure=tenure,
            state=arguments.state,
            mirror=_mirror(arguments, tenure) if arguments.state else None,
        )
    except UsageError as error:  # Another master would not see the data either.
        outcome = Outcome("failed", str(error))
        logger.error("the job failed: %s", outcome.error)
        job_dir = arguments.spec.job_dir
        kept = KeptFiles(arguments.state or job_dir, job_dir if arguments.state else "")
        content = result_content(failed(arguments.session, outcome.error))
        kept.write(RESULT_FILE, content, tenure.wait_until_sure)
        backend.close()
        return outcome

    def listen(address: str) -> Server:
        return Server([master.service], credentials, address, NUM_THREADS, on_replaced)

    door = Door(listen, arguments.listen or arguments.master, tenure)
    leaves = threading.Event()
    if steps_down:
        on_sigterm(leaves.set)
    else:
        on_sigterm(lambda: master.coordinator.end(Outcome("stopped", "the job was stopped")))
    master.start()
    on_begun(master)
    dashboard = None
    if arguments.dashboard is not None:
        listening = socket.socket(fileno=arguments.dashboard)
        dashboard = dashboard_of(arguments.spec, master, tenure.incarnation, listening)
        dashboard.start()
    while not master.coordinator.ended.wait(WAIT_S) and not leaves.is_set():
        pass
    if not master.coordinator.ended.is_set():
        logger.info("another master is to go on")
        door.close()
        master.step_down()
        return None
    outcome = master.finish()
    if outcome.state == "succeeded":
        master.wait_for_workers()
    if dashboard is not None:
        dashboard.stop()
    backend.clean_up()
    door.close()
    master.close()
    logger.info("the job %s", outcome.state)
    return outcome


def _mirror(arguments: InstanceArguments, tenure: Tenure) -> Mirror:
    """Bring what the masters before this one wrote to where the journal is to be."""
    from elasticdl.master.journal_mirror import JournalMirror, root_of

    mirror = JournalMirror(root_of(arguments.spec.job_dir), tenure.incarnation)
    mirror.fetch(arguments.state)
    return mirror


def main() -> int:
    """Entry point."""
    die_with_parent()
    if not wait_for_job(()):
        return 0
    arguments = parse_arguments("master")
    start_logging("master", arguments)
    if arguments.spec.profile:
        trace_instance(arguments.spec.job_dir, "master", 0, arguments.incarnation)
    tenure = LocalTenure(arguments.incarnation)
    credentials = credentials_of(arguments, tenure)
    backend = LocalBackend(GrpcTransport(arguments.supervisor, credentials), arguments.spec.job_dir)
    try:
        outcome = run(arguments, backend, tenure)
        return 0 if outcome is not None and outcome.state == "succeeded" else 1
    finally:
        PHASES.close()


if __name__ == "__main__":
    sys.exit(main())
