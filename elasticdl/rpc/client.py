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
from elasticdl.rpc.server import FRAME
from elasticdl.rpc.transport import Transport

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
# Its own: Keras draws initial values from the module's, and the same seed means the same model.
_jitter = random.Random()


class Client:
    """One service of one other instance. Thread-safe.

    Args:
      descriptor: the service, from the generated module's DESCRIPTOR.
      transport: how bytes get there; faults asked for by the environment are added to it.
      name: who it is, for error messages: `the master`, `parameter server 1`.
    """

    def __init__(self, descriptor: ServiceDescriptor, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = faulty(transport)
        self._paths: dict[str, str] = {}
        self._decoders: dict[str, Callable[[bytes], Any]] = {}
        for method in descriptor.methods:
            self._paths[method.name] = f"/{descriptor.full_name}/{method.name}"
            if method.output_type.full_name == FRAME:
                self._decoders[method.name] = bytes_as_they_are
            else:
                self._decoders[method.name] = GetMessageClass(method.output_type).FromString

    def call(self, method: str, request: Message | bytes, timeout_s: float = 10.0) -> Any:
        """Call once.

        Raises:
          RpcError: no reply came, or the handler raised.
        """
        data = request if isinstance(request, bytes) else request.SerializeToString()
        reply = self._transport.call(self._paths[method], data, timeout_s)
        return self._decoders[method](reply)

    def call_until(
        self,
        method: str,
        request: Message | bytes,
        deadline_s: float,
        timeout_s: float = 10.0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Call again, with growing pauses, while the other side is unavailable.

        Args:
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
                return self.call(method, request, timeout_s)
            except RpcUnavailable as error:
                waited_s = time.monotonic() - started
                if waited_s + pause_s > deadline_s or give_up():
                    raise DeadlinePassed(
                        f"{self.name} did not answer {method} within {waited_s:.1f} s: {error}"
                    ) from None
            time.sleep(pause_s * _jitter.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def start(self, method: str, request: bytes, timeout_s: float = 30.0) -> Future[bytes]:
        """Start a call that takes and returns a frame."""
        return self._transport.start(self._paths[method], request, timeout_s)

    def close(self) -> None:
        """Free the connection."""
        self._transport.close()


def bytes_as_they_are(data: bytes) -> bytes:
    """The decoder of frames."""
    return data
