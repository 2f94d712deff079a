"""Pods as the apiserver answers them, in each state that an instance can be in."""

from __future__ import annotations

from typing import Any

from elasticdl.master.cluster.kubernetes.names import instance_labels, pod_name
from elasticdl.master.instances import InstanceSpec

Pod = dict[str, Any]


def pod(who: InstanceSpec, phase: str = "Pending", uid: str = "", **status: Any) -> Pod:
    name = pod_name("mnist-1", who)
    return {
        "metadata": {
            "name": name,
            "uid": uid or f"uid-of-{name}",
            "labels": instance_labels("mnist-1", who),
        },
        "spec": {"containers": [{"name": "elasticdl"}]},
        "status": {"phase": phase, **status},
    }


def unscheduled(who: InstanceSpec, message: str = "0/2 nodes are available") -> Pod:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return pod(who, conditions=[{**condition, "message": message}])


def with_state(who: InstanceSpec, phase: str, **state: Any) -> Pod:
    """A pod that was placed, whose container has this state."""
    statuses = [
        {"name": "sidecar", "state": {"running": {}}},
        {"name": "elasticdl", "state": state},
    ]
    made = pod(who, phase, containerStatuses=statuses)
    made["spec"]["nodeName"] = "node-a"
    return made


def waiting(who: InstanceSpec, reason: str, message: str = "") -> Pod:
    return with_state(who, "Pending", waiting={"reason": reason, "message": message})


def running(who: InstanceSpec) -> Pod:
    return with_state(who, "Running", running={"startedAt": "2026-01-01T00:00:00Z"})


def terminated(who: InstanceSpec, exit_code: int, reason: str = "Error") -> Pod:
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return with_state(who, phase, terminated={"exitCode": exit_code, "reason": reason})


def failed(who: InstanceSpec, reason: str, message: str = "") -> Pod:
    """A pod that a kubelet gave up: no container is told of."""
    return pod(who, "Failed", reason=reason, message=message)


def deleted(made: Pod, grace_s: int = 30) -> Pod:
    """The pod once somebody has deleted it."""
    times = {
        "deletionTimestamp": "2026-01-01T00:01:00Z",
        "deletionGracePeriodSeconds": grace_s,
    }
    return {**made, "metadata": {**made["metadata"], **times}}


def event(reason: str, message: str = "", kind: str = "Normal", time: str = "") -> dict[str, Any]:
    """An Event of core/v1, as a reporter of 1.20 writes it through events.k8s.io: no count."""
    return {"reason": reason, "message": message, "type": kind, "eventTime": time}
