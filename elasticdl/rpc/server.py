"""Serves an object's methods as one gRPC service, to callers that hold the job token."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from elasticdl.rpc.transport import CHANNEL_OPTIONS, TOKEN_KEY

logger = logging.getLogger(__name__)

FRAME = "elasticdl.Frame"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Service:
    """A handler object seen through a .proto service: `GetAudit` is its method `get_audit`.

    Methods take and return messages, or raw bytes where the .proto says `Frame`. Every method must
    be idempotent: callers repeat a call whose reply was lost.

    Raises:
      AttributeError: the handler lacks a method of the service.
    """

    def __init__(self, descriptor: ServiceDescriptor, handler: Any) -> None:
        self.name = descriptor.full_name
        self._methods: dict[str, Callable[[bytes], bytes]] = {
            f"/{descriptor.full_name}/{method.name}": self._bind(
                method, getattr(handler, _snake_case(method.name))
            )
            for method in descriptor.methods
        }

    @staticmethod
    def _bind(method: MethodDescriptor, handle: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
        takes_frame = method.input_type.full_name == FRAME
        gives_frame = method.output_type.full_name == FRAME
        request_class = GetMessageClass(method.input_type)

        def call(data: bytes) -> bytes:
            request = data if takes_frame else request_class.FromString(data)
            reply = handle(request)
            return reply if gives_frame else reply.SerializeToString()

        return call

    @property
    def paths(self) -> list[str]:
        """The full method names, `/package.Service/Method`."""
        return list(self._methods)

    def call(self, path: str, request: bytes) -> bytes:
        """Run one method in this thread; KeyError for an unknown path."""
        return self._methods[path](request)


class Server:
    """A gRPC server for some services, on an address it may pick itself.

    Args:
      services: what it answers.
      token: the job token every call must carry.
      address: `host:port`; port 0 picks a free one.
      num_threads: calls handled at a time.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self,
        services: Sequence[Service],
        token: str,
        address: str = "127.0.0.1:0",
        num_threads: int = 16,
    ) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(num_threads, thread_name_prefix="rpc"),
            handlers=[_TokenChecked(service, token) for service in services],
            options=CHANNEL_OPTIONS,
        )
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        self.address = f"{address.rsplit(':', 1)[0]}:{port}"
        self._server.start()

    def stop(self, grace_s: float = 0.5) -> None:
        """Refuse new calls, give those in flight `grace_s`, free the port."""
        self._server.stop(grace_s).wait(grace_s + 5)


class _TokenChecked(grpc.GenericRpcHandler):
    def __init__(self, service: Service, token: str) -> None:
        self._service = service
        self._token = token

    def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = call_details.method
        if path not in self._service.paths:
            return None
        metadata = dict(call_details.invocation_metadata)
        allowed = hmac.compare_digest(str(metadata.get(TOKEN_KEY, "")), self._token)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not allowed:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "missing or wrong job token")
            try:
                return self._service.call(path, request)
            except DecodeError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unreadable request: {error}")
            except Exception as error:
                logger.exception("%s failed", path)
                context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
            raise AssertionError("context.abort returned")

        return grpc.unary_unary_rpc_method_handler(handle)
