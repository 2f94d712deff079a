"""Calls a service's methods by name, and waits out whoever is away for a while."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from elasticdl.rpc.errors import DeadlinePassed, RpcUnavailable
from elasticdl.rpc.faults import faulty
from elasticdl.rpc.frame import Frame, Placement
from elasticdl.rpc.service import FRAME
from elasticdl.rpc.transport import Transport

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
# Its own: Keras draws initial values from the module's, and the same seed means the same model.
_jitter = random.Random()


class Client:
    """One service of one other instance. Thread-safe.

    Args:
      descriptor: the service, from the generated module's DESCRIPTOR.
      transport: how calls get there; faults asked for by the environment are added to it.
      name: who it is, for error messages: `the master`, `parameter server 1`.
    """

    def __init__(self, descriptor: ServiceDescriptor, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = faulty(transport)
        self._paths: dict[str, str] = {}
        self._decoders: dict[str, Callable[[Frame], Any]] = {}
        for method in descriptor.methods:
            self._paths[method.name] = f"/{descriptor.full_name}/{method.name}"
            if method.output_type.full_name == FRAME:
                self._decoders[method.name] = _frame_as_it_is
            else:
                self._decoders[method.name] = _head_as(GetMessageClass(method.output_type))

    def call(
        self,
        method: str,
        request: Message | Frame,
        timeout_s: float = 10.0,
        placement: Placement | None = None,
    ) -> Any:
        """Call once.

        Args:
          method: its name in the .proto.
          request: a message, or a frame where the .proto says so.
          timeout_s: how long it may take.
          placement: where the buffers of a frame in reply are to be put, if they fit.

        Raises:
          RpcError: no reply came, or the handler raised.
        """
        frame = request if isinstance(request, Frame) else Frame(request.SerializeToString())
        reply = self._transport.call(self._paths[method], frame, timeout_s, placement)
        return self._decoders[method](reply)

    def call_until(
        self,
        method: str,
        request: Message | Frame,
        deadline_s: float,
        timeout_s: float = 10.0,
        give_up: Callable[[], bool] = lambda: False,
        placement: Placement | None = None,
    ) -> Any:
        """Call again, with growing pauses, while the other side is unavailable.

        Args:
          method, request, placement: as of `call`.
          deadline_s: how long to go on trying.
          timeout_s: of each try.
          give_up: asked between tries; true ends the wait early.

        Raises:
          DeadlinePassed: nobody answered in time, or `give_up` said so.
          RpcError: another failure than unavailability.
        """
        started = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self.call(method, request, timeout_s, placement)
            except RpcUnavailable as error:
                waited_s = time.monotonic() - started
                if waited_s + pause_s > deadline_s or give_up():
                    raise DeadlinePassed(
                        f"{self.name} did not answer {method} within {waited_s:.1f} s: {error}"
                    ) from None
            time.sleep(pause_s * _jitter.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def start(
        self,
        method: str,
        request: Frame,
        timeout_s: float = 30.0,
        placement: Placement | None = None,
    ) -> Future[Frame]:
        """Start a call that takes and returns a frame; see `call`."""
        return self._transport.start(self._paths[method], request, timeout_s, placement)

    def close(self) -> None:
        """Free the connection."""
        self._transport.close()


def _frame_as_it_is(frame: Frame) -> Frame:
    return frame


def _head_as(message_class: type[Message]) -> Callable[[Frame], Message]:
    return lambda frame: message_class.FromString(frame.head)
