"""Moves requests and replies between two instances; knows nothing of their meaning."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Protocol

import grpc

from elasticdl.credentials import Credentials, TlsFiles, name_of
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc.errors import RpcError, RpcFailed, RpcTimeout, RpcUnauthenticated, RpcUnavailable
from elasticdl.rpc.frame import Frame, Placement
from elasticdl.rpc.newest_master import NewestMaster

if TYPE_CHECKING:
    from elasticdl.rpc.service import Service

TOKEN_KEY = "elasticdl-job-token"
JOB_KEY = "elasticdl-job"
SESSION_KEY = "elasticdl-session"
MASTER_KEY = "elasticdl-master"

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A machine that is gone closes nothing: the kernel would take a quarter of an hour to find out.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
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
      role: of who is there, as its certificate has to say; nobody asks without TLS.
      newest_master: that was heard of; what an older one replies is not heard.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        role: str = "master",
        newest_master: NewestMaster | None = None,
    ) -> None:
        self._newest_master = newest_master or NewestMaster()
        self._connect = partial(_channel, address, credentials.tls, role)
        self._lock = threading.Lock()
        self._channel = self._connect()
        self._shown = (
            (TOKEN_KEY, credentials.token),
            (JOB_KEY, credentials.job),
            (SESSION_KEY, credentials.session),
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable] = {}

    def _method(self, path: str) -> grpc.UnaryUnaryMultiCallable:
        method = self._methods.get(path)
        if method is None:
            with self._lock:  # Not one of the channel before.
                method = self._methods[path] = self._channel.unary_unary(path)
        return method

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        head = _only_head(request)
        try:
            reply, call = self._method(path).with_call(
                head, timeout=timeout_s, metadata=self._metadata()
            )
        except grpc.RpcError as error:
            self._check_master(error, path)
            raise _translate(error, path) from None
        except ValueError as error:  # Another call closed the channel, to connect anew.
            raise RpcUnavailable(f"{path}: {error}") from None
        self._check_master(call, path)
        return Frame(reply)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (*self._shown, (MASTER_KEY, str(self._newest_master.incarnation)))

    def _connect_anew(self) -> None:
        """Leave who is there; whoever has its address now is found by the next call."""
        with self._lock:
            former, self._channel, self._methods = self._channel, self._connect(), {}
        former.close()

    def _check_master(self, call: grpc.Call, path: str) -> None:
        """Hear no reply of a master that was followed by another one."""
        for key, value in call.trailing_metadata() or ():
            if key == MASTER_KEY and not self._newest_master.note(int(value)):
                REFUSALS.note(Reason.STALE_MASTER)
                self._connect_anew()
                raise RpcUnavailable(f"{path}: master {value} answers, which was replaced")

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        outcome: Future[Frame] = Future()
        head = _only_head(request)
        call = self._method(path).future(head, timeout=timeout_s, metadata=self._metadata())

        def finish(done: grpc.Future) -> None:
            try:
                reply = Frame(done.result())
                self._check_master(call, path)
                outcome.set_result(reply)
            except RpcUnavailable as error:
                outcome.set_exception(error)
            except grpc.RpcError as error:
                outcome.set_exception(_translate(error, path))
            except grpc.FutureCancelledError:
                outcome.set_exception(RpcUnavailable(f"{path}: cancelled"))

        call.add_done_callback(finish)
        return outcome

    def close(self) -> None:
        with self._lock:
            self._channel.close()


def _channel(address: str, tls: TlsFiles | None, role: str) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    named = ("grpc.ssl_target_name_override", name_of(role))
    return grpc.secure_channel(address, credentials, options=[*CHANNEL_OPTIONS, named])


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
