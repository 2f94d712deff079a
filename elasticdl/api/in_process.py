"""A whole job in this process and thread, for a debugger: `--num_workers=0`."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable

from elasticdl.heartbeat import NotAMember
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import BackendEvent
from elasticdl.master.cluster.local import to_message
from elasticdl.master.job_view import workers_left
from elasticdl.master.master import Master
from elasticdl.master.membership import Instance, InstanceSpec, Role
from elasticdl.master.recovery import last_incarnation
from elasticdl.master.story import Outcome
from elasticdl.phases import PHASES
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.joining import join
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client, DirectTransport, Service
from elasticdl.trace_file import trace_instance


class _ThisProcess:
    """Holds the partitions as objects; there is nothing to launch, stop or watch."""

    def __init__(self) -> None:
        self.partitions: dict[int, Service] = {}
        self.master: Client

    def launch(self, spec: InstanceSpec) -> None:
        if spec.role is Role.PS:
            service = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
            partition = Partition(spec.index, spec.incarnation)
            self.partitions[spec.index] = Service(service, partition)
            with contextlib.suppress(NotAMember):  # All partitions begin anew meanwhile.
                join(self.master, to_message(spec), partition, "in this process")

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        pass

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        pass

    def close(self) -> None:
        pass


def run_in_process(spec: JobSpec) -> None:
    """Run a job to its end; its result is in the job's directory, as always.

    Breakpoints in model code stop here; training steps are the same as in a worker process.
    """
    from elasticdl.worker.worker import Worker

    here = _ThisProcess()
    PHASES.begin_anew()
    if spec.profile:
        trace_instance(spec.job_dir, "worker", 0, 1)

    def connect(instance: Instance) -> DirectTransport:
        return DirectTransport(here.partitions[instance.spec.index])

    # Nothing is lost while a debugger holds this process.
    master = Master(
        spec.model_copy(update={"lease_s": math.inf}),
        here,
        connect,
        incarnation=last_incarnation(spec.job_dir) + 1,
        session=secrets.token_hex(8),
    )
    client = Client(
        master_pb2.DESCRIPTOR.services_by_name["Master"],
        DirectTransport(master.service),
        "the master",
    )
    try:
        here.master = client
        master.start()
        (instance,) = map(to_message, master.coordinator.look(workers_left))
        worker = Worker(
            spec, instance, client, lambda one: DirectTransport(here.partitions[one.index])
        )
        worker.run()
    finally:
        master.coordinator.end(Outcome("stopped", "the job was interrupted"))
        master.finish()
        master.close()
        PHASES.close()
