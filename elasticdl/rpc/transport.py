"""Moves requests and replies between two instances; knows nothing of their meaning."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import grpc

from elasticdl.credentials import Credentials
from elasticdl.rpc.errors import RpcError, RpcFailed, RpcTimeout, RpcUnauthenticated, RpcUnavailable
from elasticdl.rpc.frame import Frame, Placement

if TYPE_CHECKING:
    from elasticdl.rpc.service import Service

TOKEN_KEY = "elasticdl-job-token"
JOB_KEY = "elasticdl-job"

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Transport(Protocol):
    """Carries one request to a method and brings its reply. Thread-safe."""

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        """Send `request` to `/service/Method`; raise an `RpcError` unless a reply came.

        Args:
          path: the method.
          request: its buffers stay as they are until the call is over.
          timeout_s: how long it may take.
          placement: where the reply's buffers are to be put, if they fit.
        """
        ...

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        """As `call`, but return at once; the future ends as `call` would."""
        ...

    def close(self) -> None:
        """Free the connection; calls in flight fail."""
        ...


def settle(outcome: Future[Frame], call: Callable[[], Frame]) -> None:
    """Call, and let the future end as the call does."""
    try:
        outcome.set_result(call())
    except BaseException as error:
        outcome.set_exception(error)


def _translate(error: grpc.RpcError, path: str) -> RpcError:
    code = error.code()  # grpc.RpcError raised by calls is also a grpc.Call
    text = f"{path}: {code.name}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RpcTimeout(text)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return RpcUnavailable(text)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return RpcUnauthenticated(text)
    return RpcFailed(text)


class GrpcTransport:
    """A gRPC channel to one address, for services of messages.

    Args:
      address: `host:port`.
      credentials: what is shown with every call.
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._metadata = ((TOKEN_KEY, credentials.token), (JOB_KEY, credentials.job))
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable] = {}

    def _method(self, path: str) -> grpc.UnaryUnaryMultiCallable:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        return method

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        try:
            head = _only_head(request)
            return Frame(self._method(path)(head, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _translate(error, path) from None

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        outcome: Future[Frame] = Future()
        head = _only_head(request)
        call = self._method(path).future(head, timeout=timeout_s, metadata=self._metadata)

        def finish(done: grpc.Future) -> None:
            try:
                outcome.set_result(Frame(done.result()))
            except grpc.RpcError as error:
                outcome.set_exception(_translate(error, path))
            except grpc.FutureCancelledError:
                outcome.set_exception(RpcUnavailable(f"{path}: cancelled"))

        call.add_done_callback(finish)
        return outcome

    def close(self) -> None:
        self._channel.close()


def _only_head(request: Frame) -> bytes:
    if request.buffers:
        raise ValueError("gRPC carries messages; frames go over streams")
    return request.head


class DirectTransport:
    """Calls a service of the same process, in the caller's thread: for `--num_workers=0`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        return self._service.call(path, request.delivered()).delivered(placement)

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        outcome: Future[Frame] = Future()
        settle(outcome, lambda: self.call(path, request, timeout_s, placement))
        return outcome

    def close(self) -> None:
        pass
