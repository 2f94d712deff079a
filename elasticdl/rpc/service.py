"""An object's methods as a service, whoever brings the calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame

logger = logging.getLogger(__name__)

FRAME = "elasticdl.Frame"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Service:
    """A handler object seen through a .proto service: `GetAudit` is its method `get_audit`.

    Methods take and return messages, or frames where the .proto says `Frame`. Every method must be
    idempotent: callers repeat a call whose reply was lost.

    Raises:
      AttributeError: the handler lacks a method of the service.
    """

    def __init__(self, descriptor: ServiceDescriptor, handler: Any) -> None:
        self.name = descriptor.full_name
        self.has_frames = any(
            FRAME in (method.input_type.full_name, method.output_type.full_name)
            for method in descriptor.methods
        )
        self._methods: dict[str, Callable[[Frame], Frame]] = {
            f"/{descriptor.full_name}/{method.name}": self._bind(
                method, getattr(handler, _snake_case(method.name))
            )
            for method in descriptor.methods
        }

    @staticmethod
    def _bind(method: MethodDescriptor, handle: Callable[[Any], Any]) -> Callable[[Frame], Frame]:
        takes_frame = method.input_type.full_name == FRAME
        gives_frame = method.output_type.full_name == FRAME
        request_class = GetMessageClass(method.input_type)

        def call(frame: Frame) -> Frame:
            request = frame if takes_frame else request_class.FromString(frame.head)
            reply = handle(request)
            return reply if gives_frame else Frame(reply.SerializeToString())

        return call

    @property
    def paths(self) -> list[str]:
        """The full method names, `/package.Service/Method`."""
        return list(self._methods)

    def call(self, path: str, request: Frame) -> Frame:
        """Run one method in this thread; KeyError for an unknown path."""
        return self._methods[path](request)

    def answer(self, path: str, request: Frame) -> tuple[Status, Frame]:
        """Run one method; what goes wrong is told to the caller, in the frame's head."""
        try:
            return Status.OK, self.call(path, request)
        except DecodeError as error:
            return Status.INVALID_ARGUMENT, Frame(f"unreadable request: {error}".encode())
        except Exception as error:
            logger.exception("%s failed", path)
            return Status.INTERNAL, Frame(f"{type(error).__name__}: {error}".encode())
