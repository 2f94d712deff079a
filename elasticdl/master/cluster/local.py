"""Local processes, through the supervisor that owns them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from elasticdl.master.cluster.backend import BackendEvent, InstanceExited, InstanceStarted
from elasticdl.master.instances import InstanceSpec, Role
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
    """

    def __init__(self, transport: Transport) -> None:
        service = supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"]
        self._supervisor = Client(service, transport, "the supervisor")
        self._closed = threading.Event()

    def launch(self, spec: InstanceSpec) -> None:
        self._supervisor.call_until("Launch", to_message(spec), DEADLINE_S)

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
                    on_event(InstanceExited(spec, event.exit_code, event.log_path))

    def close(self) -> None:
        self._closed.set()
        self._supervisor.close()
