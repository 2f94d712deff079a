"""Who may call what, where certificates say who somebody is: between the pods of a job.

On one machine all processes have the same token, and nobody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from elasticdl.proto import master_pb2

MASTER, PS, WORKER, CLIENT = "master", "ps", "worker", "client"
ROLES = (MASTER, PS, WORKER, CLIENT)

CALLERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "elasticdl.Master": {
        "Register": (PS, WORKER),
        "Heartbeat": (PS, WORKER),
        "Lease": (WORKER,),
        "CompleteTask": (WORKER,),
        "FailTask": (WORKER,),
        "ReturnTasks": (WORKER,),
        "RestartTask": (WORKER,),
        "GetStatus": (CLIENT,),
        "Scale": (CLIENT,),
        "Stop": (CLIENT,),
        "GetAudit": (CLIENT,),
        "Fetch": (CLIENT,),
        "FetchJournal": (CLIENT,),
    },
    "elasticdl.Check": {
        "Answer": (WORKER,),
    },
    "elasticdl.ParameterServer": {
        "Initialize": (WORKER,),
        "LoadRows": (WORKER,),
        "Pull": (WORKER,),
        "Push": (WORKER,),
        "GetTaskProgress": (WORKER,),
        "GetAudit": (MASTER, WORKER),
        "ExportRows": (WORKER,),
        "Pin": (WORKER,),
        "Unpin": (WORKER,),
        "GetStepNorms": (WORKER,),
        "SetStepNorms": (WORKER,),
        "Snapshot": (MASTER,),
        "SetRates": (WORKER,),
    },
    "elasticdl.Standby": {
        "WriteCopy": (PS,),
        "FinishCopy": (PS,),
        "GetCopy": (PS,),
        "ReadCopy": (PS,),
    },
    "elasticdl.Supervisor": {
        "Launch": (MASTER,),
        "StopInstance": (MASTER,),
        "Watch": (MASTER,),
    },
}
"""Roles by service and method; what is not here nobody may call."""

_BY_PATH = {
    f"/{service}/{method}": roles
    for service, methods in CALLERS.items()
    for method, roles in methods.items()
}


def may_call(role: str, path: str) -> bool:
    """Whether who has a role's certificate may call a method."""
    return role in _BY_PATH.get(path, ())


def speaks_for_itself(role: str, path: str, request: bytes) -> bool:
    """Whether a request to the master names no other role as its sender."""
    sender = _SENDERS.get(path)
    if sender is None:
        return True
    try:
        return bool(sender.FromString(request).instance.role == role)
    except DecodeError:
        return True  # Whoever answers it says so.


_SENDERS: Mapping[str, Any] = {
    f"/elasticdl.Master/{method.name}": GetMessageClass(method.input_type)
    for method in master_pb2.DESCRIPTOR.services_by_name["Master"].methods
    if "instance" in method.input_type.fields_by_name
}
