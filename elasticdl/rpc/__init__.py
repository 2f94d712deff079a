"""How instances call each other: over gRPC or in one process; token, retries, faults."""

from elasticdl.rpc.client import Client
from elasticdl.rpc.errors import (
    DeadlinePassed,
    RpcError,
    RpcFailed,
    RpcTimeout,
    RpcUnauthenticated,
    RpcUnavailable,
)
from elasticdl.rpc.server import Server, Service
from elasticdl.rpc.transport import DirectTransport, GrpcTransport, Transport

__all__ = [
    "Client",
    "DeadlinePassed",
    "DirectTransport",
    "GrpcTransport",
    "RpcError",
    "RpcFailed",
    "RpcTimeout",
    "RpcUnauthenticated",
    "RpcUnavailable",
    "Server",
    "Service",
    "Transport",
]
