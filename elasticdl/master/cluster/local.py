"""Local processes, through the supervisor that owns them."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from elasticdl.logs.files import end_of_log, find_logs
from elasticdl.master.cluster.backend import (
    LOG_TAIL_BYTES,
    BackendEvent,
    InstanceEnded,
    InstanceStarted,
)
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Needs, Role
from elasticdl.proto import master_pb2, supervisor_pb2
from elasticdl.rpc import Client, RpcError, Transport

logger = logging.getLogger(__name__)

WATCH_S = 5.0
DEADLINE_S = 30.0


def to_message(spec: InstanceSpec) -> master_pb2.InstanceId:
    """The wire form of an instance's identity."""
    return master_pb2.InstanceId(
        role=spec.role.value, index=spec.index, incarnation=spec.incarnation
    )


def from_message(message: master_pb2.InstanceId) -> InstanceSpec:
    """The identity a message carries; ValueError for an unknown role."""
    return InstanceSpec(Role(message.role), message.index, message.incarnation)


class LocalBackend:
    """The supervisor of one machine, as a backend.

    Args:
      transport: to the supervisor.
      job_dir: whose logs the instances write.
    """

    def __init__(self, transport: Transport, job_dir: str | Path) -> None:
        service = supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"]
        self._supervisor = Client(service, transport, "the supervisor")
        self._job_dir = job_dir
        self._closed = threading.Event()

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        self._supervisor.call_until("Launch", to_message(spec), DEADLINE_S)

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        for spec in specs:  # The supervisor remembers whom it has launched.
            self.launch(spec, Needs())

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        request = supervisor_pb2.StopInstanceRequest(instance=to_message(spec), grace_s=grace_s)
        self._supervisor.call_until("StopInstance", request, DEADLINE_S)

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        threading.Thread(target=self._watch, args=(on_event,), name="watch", daemon=True).start()

    def _watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        after = 0
        while not self._closed.is_set():
            request = supervisor_pb2.WatchRequest(after=after, wait_s=WATCH_S)
            try:
                reply = self._supervisor.call("Watch", request, timeout_s=WATCH_S + 5)
            except RpcError as error:
                if not self._closed.wait(0.5):
                    logger.warning("the supervisor is not heard: %s", error)
                continue
            for event in reply.events:
                after = event.number
                spec = from_message(event.instance)
                if event.kind == supervisor_pb2.InstanceEvent.STARTED:
                    on_event(InstanceStarted(spec, event.pid))
                else:
                    on_event(InstanceEnded(spec, _end_of(event)))

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        logs = find_logs(self._job_dir, spec.role.value, spec.index)
        of_it = [one for one in logs if one.incarnation in (0, spec.incarnation)]
        return "".join(f"{line}\n" for one in of_it for line in one.last_lines(most_bytes))

    def clean_up(self) -> None:
        pass

    def close(self) -> None:
        self._closed.set()
        self._supervisor.close()


def _end_of(event: supervisor_pb2.InstanceEvent) -> End:
    """How a process ended; what it logged is read where that may have to be told."""
    end = End.of_exit_code(event.exit_code)
    return dataclasses.replace(end, log_tail=end_of_log(event.log_path)) if end.is_crash else end
