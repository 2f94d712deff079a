"""A whole job in this process and thread, for a debugger: `--num_workers=0`."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from elasticdl.api.launcher import POLL_S, Following
from elasticdl.api.result import JobStatus
from elasticdl.api.supervisor import FILE_NAME, write_json
from elasticdl.credentials import Credentials
from elasticdl.dashboard.address import open_dashboard, url_of
from elasticdl.dashboard.of_master import dashboard_of
from elasticdl.data.filesystems import use_stores_of
from elasticdl.heartbeat import Heartbeat, NotAMember
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import LOG_TAIL_BYTES, BackendEvent
from elasticdl.master.cluster.local import to_message
from elasticdl.master.instances import Instance, InstanceSpec, Needs, Role
from elasticdl.master.job_view import workers_left
from elasticdl.master.master import Master
from elasticdl.master.recovery import last_incarnation
from elasticdl.master.story import Outcome
from elasticdl.phases import PHASES
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.joining import join
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client, DirectTransport, RpcError, Server, Service
from elasticdl.trace_file import trace_instance


class _ThisProcess:
    """Holds the partitions as objects; there is nothing to launch, stop or watch."""

    def __init__(self) -> None:
        self.partitions: dict[int, Service] = {}
        self.master: Client
        self._heartbeats: list[Heartbeat] = []

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        if spec.role is Role.PS:
            service = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
            partition = Partition(spec.index, spec.incarnation)
            self.partitions[spec.index] = Service(service, partition)
            heartbeat = Heartbeat(
                self.master,
                to_message(spec),
                lambda why: None,
                doing=partition.doing,
                partition=partition.counts,
            )
            self._heartbeats.append(heartbeat)
            with contextlib.suppress(NotAMember):  # All partitions begin anew meanwhile.
                join(self.master, to_message(spec), partition, "in this process", heartbeat.start)

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        for spec in specs:
            self.launch(spec, Needs())

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        pass

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        pass

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        return ""  # It is in this terminal.

    def clean_up(self) -> None:
        pass

    def close(self) -> None:
        for one in self._heartbeats:
            one.stop()


def run_in_process(spec: JobSpec, on_status: Callable[[JobStatus], None]) -> None:
    """Run a job to its end; its result is in the job's directory, as always.

    Breakpoints in model code stop here; training steps are the same as in a worker process.

    Args:
      spec: the job.
      on_status: called several times a second, from a thread, with where the job stands.

    Raises:
      UsageError: the job's page cannot be served where the job wants it.
    """
    from elasticdl.worker.worker import Worker

    use_stores_of(spec)
    listening = open_dashboard(spec)
    url = None
    if listening is not None:
        url = url_of(listening, spec.dashboard_host)
        on_status(JobStatus(state="starting", message=f"dashboard: {url}"))
    here = _ThisProcess()
    PHASES.begin_anew()
    if spec.profile:
        trace_instance(spec.job_dir, "worker", 0, 1)

    def connect(instance: Instance) -> DirectTransport:
        return DirectTransport(here.partitions[instance.spec.index])

    incarnation = last_incarnation(spec.job_dir) + 1
    # Nothing is lost while a debugger holds this process.
    master = Master(
        spec.model_copy(update={"lease_s": math.inf}),
        here,
        connect,
        incarnation=incarnation,
        session=secrets.token_hex(8),
    )
    client = Client(
        master_pb2.DESCRIPTOR.services_by_name["Master"],
        DirectTransport(master.service),
        "the master",
    )
    dashboard = None
    if listening is not None:
        dashboard = dashboard_of(spec, master, incarnation, listening)
    # For `elasticdl jobs`.
    server = Server([master.service], Credentials.of_directory(spec.job_dir))
    ended = threading.Event()
    following = Following(client, url, on_status)
    telling = threading.Thread(target=_tell, args=(following, ended), name="progress", daemon=True)
    heartbeat: Heartbeat | None = None
    try:
        here.master = client
        master.start()
        if dashboard is not None:
            dashboard.start()
        write_json(
            Path(spec.job_dir) / FILE_NAME,
            {"pid": os.getpid(), "master_address": server.address, "dashboard": url},
        )
        telling.start()
        (instance,) = map(to_message, master.coordinator.look(workers_left))
        worker = Worker(
            spec, instance, client, lambda one: DirectTransport(here.partitions[one.index])
        )
        heartbeat = Heartbeat(
            client,
            instance,
            lambda why: None,
            grants=lambda: worker.grants,
            loss=lambda: worker.loss,
            doing=lambda: worker.doing,
        )
        heartbeat.start()
        worker.run()
    finally:
        master.coordinator.end(Outcome("stopped", "the job was interrupted"))
        ended.set()
        if telling.ident is not None:
            telling.join()
        here.close()
        if heartbeat is not None:
            heartbeat.stop()
        master.finish()
        if dashboard is not None:
            dashboard.stop()
        server.stop()
        master.close()
        PHASES.close()


def _tell(following: Following, ended: threading.Event) -> None:
    """Tell where the job stands until it has ended, and then once more."""
    with contextlib.suppress(BrokenPipeError):  # Nobody reads it: the job goes on.
        while True:
            is_last = ended.wait(POLL_S)
            with contextlib.suppress(RpcError):  # A busy machine may be late; it is asked again.
                following.look()
            if is_last:
                return
