"""`python -m elasticdl.ps`: one parameter server, as a process."""

from __future__ import annotations

import logging
import sys
import threading

from elasticdl.data.filesystems import use_stores_of
from elasticdl.early import wait_for_job
from elasticdl.freed_memory import keep_freed_memory
from elasticdl.heartbeat import ORPHAN_S, Heartbeat, NotAMember, Orphaned, find_cluster
from elasticdl.instance import (
    ORPHAN_EXIT_CODE,
    InstanceArguments,
    allow_many_connections,
    die_with_parent,
    on_sigterm,
    parse_arguments,
    start_logging,
)
from elasticdl.own_metrics import MetricsServer
from elasticdl.phases import PHASES
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.copies import Copies
from elasticdl.ps.joining import join
from elasticdl.ps.partition import Partition
from elasticdl.ps.standby import Standby
from elasticdl.ps.traffic import add_metrics
from elasticdl.rpc import (
    Client,
    GrpcTransport,
    NewestMaster,
    Service,
    StreamServer,
    StreamTransport,
    Transport,
)
from elasticdl.trace_file import trace_instance

logger = logging.getLogger(__name__)

LISTEN = "127.0.0.1:0"
MOST_WAITING = 256


def run(arguments: InstanceArguments) -> int:
    """Serve one partition until the job is over."""
    keep_freed_memory()
    allow_many_connections()
    use_stores_of(arguments.spec)
    ended = threading.Event()
    on_sigterm(ended.set)
    # In sync mode every lane may have a request that waits.
    spec = arguments.spec
    num_lanes = (spec.grads_to_wait or spec.num_workers) if spec.consistency == "sync" else 0
    most_waiting = min(MOST_WAITING, num_lanes)
    partition = Partition(arguments.index, arguments.incarnation, most_waiting=most_waiting)
    newest_master = NewestMaster(arguments.master_incarnation)
    services = [
        Service(ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"], partition),
        Service(ps_pb2.DESCRIPTOR.services_by_name["Standby"], Copies(arguments.incarnation)),
    ]
    server = StreamServer(
        services, arguments.credentials, arguments.listen or LISTEN, newest_master=newest_master
    )
    address = arguments.advertise or server.address
    instance = master_pb2.InstanceId(
        role="ps", index=arguments.index, incarnation=arguments.incarnation
    )
    transport = GrpcTransport(arguments.master, arguments.credentials, newest_master=newest_master)
    master = Client(master_pb2.DESCRIPTOR.services_by_name["Master"], transport, "the master")

    reasons: list[str] = []
    finished = threading.Event()

    def on_end(why: str) -> None:
        # After a finished job the partition goes on answering (the audit is being made) until it is
        # ended, or nobody is there to do that; a replaced one must not answer anybody any more.
        reasons.append(why)
        (finished if why == "finished" else ended).set()

    def connect(other: master_pb2.Partition) -> Transport:
        return StreamTransport(other.address, arguments.credentials)

    standby = Standby(partition, connect)
    own = None
    if spec.metrics:
        own = MetricsServer(
            spec.job_name or "",
            "ps",
            arguments.index,
            arguments.incarnation,
            lambda metrics: add_metrics(metrics, partition.counts()),
        )
    heartbeat = Heartbeat(
        master,
        instance,
        on_end,
        on_cluster=standby.heard,
        doing=partition.doing,
        partition=partition.counts,
        metrics_address=own.address if own is not None else "",
    )
    try:
        said = join(master, instance, partition, address, heartbeat.start, connect)
        logger.info("serves partition %d on %s", arguments.index, address)
        if spec.ps_standby:
            standby.start(lambda: find_cluster(master, said))
        while not ended.wait(1.0) and not finished.is_set():
            pass
        if finished.is_set() and not ended.wait(ORPHAN_S):
            reasons.append("orphaned")
    except NotAMember:
        logger.warning("this incarnation is not wanted any more")
    except Orphaned:
        reasons.append("orphaned")
    finally:
        heartbeat.stop()
        if own is not None:
            own.stop()
        standby.stop()
        server.stop()
        master.close()
    if "orphaned" in reasons:
        logger.warning("there is no master any more")
        return ORPHAN_EXIT_CODE
    return 0


def main() -> int:
    """Entry point."""
    die_with_parent()
    if not wait_for_job(()):
        return 0
    arguments = parse_arguments("ps")
    start_logging("ps", arguments)
    if arguments.spec.profile:
        trace_instance(arguments.spec.job_dir, "ps", arguments.index, arguments.incarnation)
    try:
        return run(arguments)
    finally:
        PHASES.close()


if __name__ == "__main__":
    sys.exit(main())
