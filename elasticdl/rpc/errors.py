"""What a call to another instance can end in, besides its reply."""

from __future__ import annotations

from enum import IntEnum

from elasticdl.errors import JobError


class Status(IntEnum):
    """How a call ended, as the other side tells it; the names are gRPC's."""

    OK = 0
    UNAUTHENTICATED = 1
    UNIMPLEMENTED = 2
    INVALID_ARGUMENT = 3
    INTERNAL = 4
    PERMISSION_DENIED = 5
    FAILED_PRECONDITION = 6


class RpcError(Exception):
    """Base of every failure of a call; never means "no more data"."""


class RpcUnavailable(RpcError):
    """The other side was not reached, or its reply was lost: the call may or may not have run."""


class RpcTimeout(RpcUnavailable):
    """No reply within the call's timeout."""


class RpcUnauthenticated(RpcError):
    """The job token, or a certificate, was missing or wrong; on either side."""


class RpcFailed(RpcError):
    """The handler raised; the message is its exception's."""


class DeadlinePassed(JobError):
    """A wait passed its deadline; the message names what was awaited and for how long."""
