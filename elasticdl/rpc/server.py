"""Serves services over gRPC, to callers that hold the job token."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame
from elasticdl.rpc.service import Service
from elasticdl.rpc.transport import CHANNEL_OPTIONS, TOKEN_KEY


class Server:
    """A gRPC server for some services, on an address it may pick itself.

    Args:
      services: what it answers; without frames, which go over streams.
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
        for service in services:
            if service.has_frames:
                raise ValueError(f"service '{service.name}' has frames: it wants a StreamServer")
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
            status, reply = self._service.answer(path, Frame(request))
            if status is not Status.OK:
                context.abort(grpc.StatusCode[status.name], reply.head.decode())
            return reply.head

        return grpc.unary_unary_rpc_method_handler(handle)
