"""An object's methods as a service, whoever brings the calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame

logger = logging.getLogger(__name__)

FRAME = "elasticdl.Frame"

Answer = tuple[Status, Frame]
"""How a call went, and its reply; what went wrong is told in the frame's head."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def prompt(method: _Method) -> _Method:
    """Mark a handler's method that waits for nothing, and returns a future of its reply.

    A server may call it in the thread that reads all requests.
    """
    method.is_prompt = True  # type: ignore[attr-defined]
    return method


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Service:
    """A handler object seen through a .proto service: `GetAudit` is its method `get_audit`.

    Methods take and return messages, or frames where the .proto says `Frame`; those marked `prompt`
    return futures of messages. Every method must be idempotent: callers repeat a call whose reply
    was lost.

    Raises:
      AttributeError: the handler lacks a method of the service.
    """

    def __init__(self, descriptor: ServiceDescriptor, handler: Any) -> None:
        self.name = descriptor.full_name
        self.has_frames = any(
            FRAME in (method.input_type.full_name, method.output_type.full_name)
            for method in descriptor.methods
        )
        self._methods: dict[str, Callable[[Frame], Frame]] = {}
        self._prompt_methods: dict[str, Callable[[Frame], Future[Message]]] = {}
        for method in descriptor.methods:
            path = f"/{descriptor.full_name}/{method.name}"
            handle = getattr(handler, _snake_case(method.name))
            if getattr(handle, "is_prompt", False) is True:
                self._prompt_methods[path] = _reading(method, handle)
            else:
                self._methods[path] = _bind(method, handle)

    @property
    def paths(self) -> list[str]:
        """The full method names, `/package.Service/Method`."""
        return [*self._methods, *self._prompt_methods]

    def is_prompt(self, path: str) -> bool:
        """Whether a method is one for `start`."""
        return path in self._prompt_methods

    def call(self, path: str, request: Frame) -> Frame:
        """Run one method in this thread; KeyError for an unknown path."""
        if path in self._prompt_methods:
            return _written(self._prompt_methods[path](request).result())
        return self._methods[path](request)

    def answer(self, path: str, request: Frame) -> Answer:
        """Run one method; what goes wrong is told to the caller."""
        try:
            return Status.OK, self.call(path, request)
        except Exception as error:
            return _failed(path, error)

    def start(self, path: str, request: Frame, done: Callable[[Answer], None]) -> None:
        """Run a prompt method; `done` is called, in any thread, with what `answer` would return."""

        def finish(outcome: Future[Message]) -> None:
            try:
                answer = Status.OK, _written(outcome.result())
            except Exception as error:
                answer = _failed(path, error)
            done(answer)

        try:
            outcome = self._prompt_methods[path](request)
        except Exception as error:
            done(_failed(path, error))
        else:
            outcome.add_done_callback(finish)


def _reading(method: MethodDescriptor, handle: Callable[[Any], Any]) -> Callable[[Frame], Any]:
    request_class = GetMessageClass(method.input_type)
    return lambda frame: handle(request_class.FromString(frame.head))


def _bind(method: MethodDescriptor, handle: Callable[[Any], Any]) -> Callable[[Frame], Frame]:
    run = handle if method.input_type.full_name == FRAME else _reading(method, handle)
    if method.output_type.full_name == FRAME:
        return run
    return lambda frame: _written(run(frame))


def _written(reply: Message) -> Frame:
    return Frame(reply.SerializeToString())


def _failed(path: str, error: Exception) -> Answer:
    if isinstance(error, DecodeError):
        return Status.INVALID_ARGUMENT, Frame(f"unreadable request: {error}".encode())
    logger.error("%s failed", path, exc_info=error)
    return Status.INTERNAL, Frame(f"{type(error).__name__}: {error}".encode())
