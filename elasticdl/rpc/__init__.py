"""How instances call each other: gRPC, streams, or in one process; token, retries, faults."""

from elasticdl.rpc.client import Client
from elasticdl.rpc.errors import (
    DeadlinePassed,
    RpcError,
    RpcFailed,
    RpcTimeout,
    RpcUnauthenticated,
    RpcUnavailable,
)
from elasticdl.rpc.frame import Frame, Placement
from elasticdl.rpc.newest_master import NewestMaster
from elasticdl.rpc.server import Server
from elasticdl.rpc.service import Service
from elasticdl.rpc.stream_server import StreamServer
from elasticdl.rpc.stream_transport import StreamTransport
from elasticdl.rpc.transport import DirectTransport, GrpcTransport, Transport

__all__ = [
    "Client",
    "DeadlinePassed",
    "DirectTransport",
    "Frame",
    "GrpcTransport",
    "NewestMaster",
    "Placement",
    "RpcError",
    "RpcFailed",
    "RpcTimeout",
    "RpcUnauthenticated",
    "RpcUnavailable",
    "Server",
    "Service",
    "StreamServer",
    "StreamTransport",
    "Transport",
]
