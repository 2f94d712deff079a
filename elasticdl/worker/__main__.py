"""`python -m elasticdl.worker`: one worker, as a process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from elasticdl.cores import usable_cores
from elasticdl.data.filesystems import use_stores_of
from elasticdl.early import wait_for_job
from elasticdl.freed_memory import keep_freed_memory
from elasticdl.heartbeat import Heartbeat, NotAMember, Orphaned, register
from elasticdl.instance import (
    ORPHAN_EXIT_CODE,
    InstanceArguments,
    die_with_parent,
    on_sigterm,
    parse_arguments,
    start_logging,
)
from elasticdl.job_spec import JobSpec
from elasticdl.logs.line import fields
from elasticdl.model.keras_choice import use_keras
from elasticdl.own_metrics import MetricsServer
from elasticdl.phases import PHASES
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, GrpcTransport, NewestMaster, RpcError, StreamTransport
from elasticdl.trace_file import trace_instance

if TYPE_CHECKING:
    from elasticdl.worker.worker import Worker

logger = logging.getLogger(__name__)

IMPORTS = ("elasticdl.worker.devices", "elasticdl.worker.watchdog", "elasticdl.worker.worker")
"""What takes long to import; whoever does it has chosen a Keras before."""
_GOODBYE_S = 5.0


def share_of_threads(spec: JobSpec) -> int:
    """Threads TensorFlow may use in one worker, when a machine's workers share its cores.

    A pod has its cores to itself.
    """
    sharing = max(1, spec.num_workers) if spec.cluster == "local" else 1
    return spec.worker_threads or max(1, usable_cores() // sharing)


def run(arguments: InstanceArguments) -> int:
    """Register, import TensorFlow, and work until the job is over."""
    keep_freed_memory()
    use_stores_of(arguments.spec)
    instance = master_pb2.InstanceId(
        role="worker", index=arguments.index, incarnation=arguments.incarnation
    )
    transport = GrpcTransport(
        arguments.master,
        arguments.credentials,
        newest_master=NewestMaster(arguments.master_incarnation),
    )
    master = Client(master_pb2.DESCRIPTOR.services_by_name["Master"], transport, "the master")
    worker: Worker | None = None

    def leave() -> None:
        """Return what is held; who imports or builds a model holds nothing, and does not listen."""
        if worker is not None and worker.has_begun:
            worker.leave()
        else:
            _say_goodbye(master, instance)
            _exit(0)

    on_sigterm(leave)
    try:
        register(master, master_pb2.RegisterRequest(instance=instance, pid=os.getpid()))
        heartbeat = Heartbeat(
            master,
            instance,
            on_end=lambda why: _orphaned() if why == "orphaned" else leave(),
            doing=lambda: "imports TensorFlow",
        )
        heartbeat.start()

        use_keras(arguments.spec.keras or "3")

        import tensorflow as tf

        from elasticdl.worker.devices import use_device
        from elasticdl.worker.watchdog import WATCHDOG
        from elasticdl.worker.worker import Worker

        device = use_device(arguments.spec.worker_devices, arguments.index)
        logger.info("computes on %s", device, extra=fields(device=str(device)))
        threads = share_of_threads(arguments.spec)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(max(2, threads))
        worker = Worker(
            arguments.spec,
            instance,
            master,
            lambda partition: StreamTransport(partition.address, arguments.credentials),
            master_address=arguments.master,
        )
        own = None
        if arguments.spec.metrics:
            own = MetricsServer(
                arguments.spec.job_name or "", "worker", arguments.index, arguments.incarnation
            )
        heartbeat.stop()
        heartbeat = Heartbeat(
            master,
            instance,
            on_end=lambda why: _orphaned() if why == "orphaned" else leave(),
            grants=lambda: worker.grants,
            loss=lambda: worker.loss,
            on_cluster=worker.note_cluster,
            doing=lambda: worker.doing,
            metrics_address=own.address if own is not None else "",
        )
        heartbeat.start()
        if arguments.spec.task_timeout:
            WATCHDOG.start(arguments.spec.task_timeout)
        worker.run()
        WATCHDOG.stop()
        heartbeat.stop()
    except NotAMember:
        logger.warning("this incarnation is not wanted any more")
    except Orphaned as error:
        logger.warning("there is no master any more: %s", error)
        return ORPHAN_EXIT_CODE
    return 0


def _say_goodbye(master: Client, instance: master_pb2.InstanceId) -> None:
    """Tell the master that the end of this process is no crash, if it listens."""
    logger.info("leaves before it has begun to work")
    request = master_pb2.ReturnTasksRequest(instance=instance, goodbye=True)
    with contextlib.suppress(RpcError):
        master.call("ReturnTasks", request, _GOODBYE_S)


def _orphaned() -> None:
    """End this process: whatever it is at, nobody will be told of it."""
    logger.warning("there is no master any more")
    _exit(ORPHAN_EXIT_CODE)


def main() -> NoReturn:
    """Entry point. Threads of TensorFlow are not waited for: everything is told by then."""
    die_with_parent()
    if not wait_for_job(IMPORTS):
        sys.exit(0)
    arguments = parse_arguments("worker")
    start_logging("worker", arguments)
    if arguments.spec.profile:
        trace_instance(arguments.spec.job_dir, "worker", arguments.index, arguments.incarnation)
    code = run(arguments)
    PHASES.close()
    _exit(code)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
