"""What the apiserver's JSON of a pod says: that it waits, runs, or has ended, and why.

Pure; the rows are those of `docs/decisions/kubernetes.md`, and the first that fits holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.names import instance_of
from elasticdl.master.cluster.kubernetes.pod_template import MAIN
from elasticdl.master.exits import Cause, End

Json = Mapping[str, Any]

OUT_OF_MEMORY_EXIT_CODE = 77
"""Of an instance whose process the kernel killed for its memory: its parent has seen that."""
_KILLED = 128
_SIGKILL_EXIT_CODE = 137
# What runtimes call the end of a container that they could not start: containerd and CRI-O, Docker.
_START_ERRORS = frozenset({"StartError", "ContainerCannotRun"})
# What a kubelet goes on saying of a container whose image it is pulling once more.
_PULL_ERRORS = frozenset({"ErrImagePull", "ImagePullBackOff"})
# Reasons for which a container that waits will wait until somebody mends something.
_ERRORS = frozenset(
    {
        *_PULL_ERRORS,
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)
# What a kubelet says while nothing is wrong; before it says anything, that is what there is to say.
_CREATING = "ContainerCreating"
# How reasons of events begin for which a pod does not start.
_FAILURES = ("Failed", "BackOff", "Err", "Inspect", "NetworkNotReady")
# What a kubelet says of a pod once all its volumes are mounted.
_AFTER_MOUNTS = frozenset({"Pulling", "Pulled"})
# Why a pod was deleted, where the pod itself says so: clusters of 1.26 and later.
_DISRUPTIONS = {
    "PreemptionByScheduler": Cause.PREEMPTED,
    "PreemptionByKubeScheduler": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.NODE_LOST,
    "DeletionByPodGC": Cause.NODE_LOST,
    "EvictionByEvictionAPI": Cause.EVICTED,
    "TerminationByKubelet": Cause.EVICTED,
}


@dataclass(frozen=True)
class Waits:
    """The pod is asked for and does not run.

    is_error: waiting alone does not help. for_room: no node has room for it.
    """

    why: str
    is_error: bool = False
    for_room: bool = False


@dataclass(frozen=True)
class Runs:
    """Its container runs, on this node."""

    node: str


def classify(
    pod: Json, events: Sequence[Json] = ()
) -> InstanceWaits | InstanceStarted | InstanceEnded | None:
    """What an instance's pod says of it; None where that is nothing yet, or it is no instance's.

    Args:
      pod: as the apiserver has it.
      events: core/v1 Events of this pod.
    """
    spec = instance_of(pod["metadata"].get("labels") or {})
    if spec is None:
        return None
    match state_of(pod, events):
        case Waits(why, is_error, for_room):
            return InstanceWaits(spec, why, is_error, for_room)
        case Runs(node):
            return InstanceStarted(spec, 0, node)
        case End() as end:
            return InstanceEnded(spec, end)
    return None


def state_of(pod: Json, events: Sequence[Json] = ()) -> Waits | Runs | End | None:
    """What any pod of a job says; None where that is nothing yet."""
    status = pod.get("status") or {}
    container = _container(status)
    state = container.get("state") or {}
    if "terminated" in state or status.get("phase") in ("Succeeded", "Failed"):
        return end_of(pod, events)
    if "running" in state:
        return Runs(pod["spec"].get("nodeName", ""))
    # Its own only says that it waits for others, where there are some.
    waiting = _waiting_before(status) or state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULL_ERRORS and (pulling := _pulled_again(events)) and not _is_deleted(pod):
        return Waits(_joined(pulling["reason"], pulling.get("message", "")))
    if reason in _ERRORS:
        return Waits(_joined(reason, message), is_error=True)
    if _is_deleted(pod):
        return None
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            why = _joined(condition.get("reason", ""), condition.get("message", ""))
            return Waits(why, for_room=True)
    if not reason and not pod["spec"].get("nodeName"):
        return None  # Nobody has looked at it so far.
    warning = _newest_warning(events)
    if warning is None:
        return Waits(_joined(reason or _CREATING, message))
    is_error = warning.get("reason") == "FailedMount"
    return Waits(_joined(warning.get("reason", ""), warning.get("message", "")), is_error)


def end_of(pod: Json, events: Sequence[Json] = ()) -> End:
    """How a pod ended that has ended or is not there any more.

    Args:
      pod: as it was last seen.
      events: core/v1 Events of this pod.
    """
    status = pod.get("status") or {}
    terminated = _terminated(_container(status))
    exit_code = int(terminated.get("exitCode", 0)) if terminated else 0
    said = _joined((terminated or {}).get("reason", ""), (terminated or {}).get("message", ""))
    is_killed_for_memory = said.startswith("OOMKilled") and exit_code == _SIGKILL_EXIT_CODE
    if is_killed_for_memory or exit_code == OUT_OF_MEMORY_EXIT_CODE:
        return End(Cause.OUT_OF_MEMORY, -9, said)
    signal = -(exit_code - _KILLED) if exit_code > _KILLED else exit_code
    if (disrupted := _disrupted(status, events)) is not None:
        cause, message = disrupted
        return End(cause, signal, message)
    if status.get("phase") == "Failed" and (status.get("reason") == "Evicted" or not terminated):
        message = _joined(status.get("reason", ""), status.get("message", ""))
        if not message and not _is_deleted(pod) and (failed := _failed_before(status)):
            return failed
        is_lost = status.get("reason") == "NodeLost"
        cause = Cause.NODE_LOST if is_lost else Cause.EVICTED
        return End(cause, signal, message or "no container ran")
    if status.get("reason") == "NodeLost":
        return End(Cause.NODE_LOST, signal, status.get("message", ""))
    if _is_deleted(pod) or not terminated:
        return End(Cause.DELETED, signal, "its pod was deleted")
    if terminated.get("reason") in _START_ERRORS:
        return End(Cause.NOT_STARTED, exit_code or _KILLED, said)
    if exit_code > _KILLED:
        return End(Cause.KILLED, signal, said)
    return End(Cause.EXITED, exit_code, said)


def has_ended(pod: Json) -> bool:
    """Whether its container is seen to have ended: it may be restarted where it is.

    The phase alone proves nothing. Kubelets that evict say `Failed` before the container has ended,
    and a cluster says it of pods whose node it does not hear any more.
    """
    state = _container(pod.get("status") or {}).get("state") or {}
    return "running" not in state and last_end(pod) is not None


def last_end(pod: Json) -> End | None:
    """How the container ended that was there before; None where there was none, or not yet."""
    status = pod.get("status") or {}
    container = _container(status)
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if "terminated" in state:
            return end_of(
                {
                    "metadata": {},
                    "status": {"containerStatuses": [{**container, "state": state}]},
                }
            )
    return None


def is_event_of(event: Json, pod: Json) -> bool:
    """Whether an Event of a pod's name is of this pod.

    That of who deletes the pods of a lost node has no uid: then it must not be older than the pod.
    """
    metadata, involved = pod["metadata"], event.get("involvedObject") or {}
    if involved.get("kind", "Pod") != "Pod" or involved.get("name") != metadata["name"]:
        return False
    if involved.get("uid"):
        return involved["uid"] == metadata.get("uid")
    return _time_of(event) >= metadata.get("creationTimestamp", "")


def _container(status: Json) -> Json:
    """The status of the container that is the instance."""
    statuses = status.get("containerStatuses") or ()
    return next((one for one in statuses if one.get("name") == MAIN), {})


def _terminated(container: Json) -> Json | None:
    """How a container ended; None where it has not.

    Of one whose end its kubelet missed, as its pod was being deleted, it says that it waits to be
    created, and that its last one ended.
    """
    state, before = container.get("state") or {}, container.get("lastState") or {}
    last = before.get("terminated") if "waiting" in state else None
    ended: Json | None = state.get("terminated") or last
    return ended


def _waiting_before(status: Json) -> Json:
    """What the first container waits for that has to have run before, if one waits."""
    for one in status.get("initContainerStatuses") or ():
        if waiting := (one.get("state") or {}).get("waiting"):
            return waiting
    return {}


def _failed_before(status: Json) -> End | None:
    """How a container failed that had to run before, if one did; another pod's will do the same."""
    for one in status.get("initContainerStatuses") or ():
        if code := ((one.get("state") or {}).get("terminated") or {}).get("exitCode"):
            message = f"init container {one.get('name')}: exit code {code}"
            return End(Cause.NOT_STARTED, code, message)
    return None


def _is_deleted(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _disrupted(status: Json, events: Sequence[Json]) -> tuple[Cause, str] | None:
    """Who ended the pod, if it was the cluster: by its condition, or by its events."""
    for condition in status.get("conditions") or ():
        is_it = condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
        if is_it and condition.get("reason") in _DISRUPTIONS:
            return _DISRUPTIONS[condition["reason"]], condition.get("message", "")
    for event in events:
        if event.get("reason") in ("Preempted", "Preempting"):
            return Cause.PREEMPTED, event.get("message", "")
    if status.get("reason") == "Preempting":  # A kubelet, for a pod of the system.
        return Cause.PREEMPTED, status.get("message", "")
    if any(event.get("reason") == "TaintManagerEviction" for event in events):
        return Cause.NODE_LOST, "its node was lost or tainted"
    return None


def _pulled_again(events: Sequence[Json]) -> Json | None:
    """What says that an image is being pulled, if that began after the last failure."""
    pulls = [event for event in events if event.get("reason") == "Pulling"]
    failures = [event for event in events if event.get("reason", "").startswith(_FAILURES)]
    newest = max(pulls, key=_time_of, default=None)
    failed_at = max(map(_time_of, failures), default="")
    return newest if newest is not None and _time_of(newest) > failed_at else None


def _newest_warning(events: Sequence[Json]) -> Json | None:
    """What last went wrong and is not over.

    Not what a pod was only warned of, such as too many search domains. An Event stays for an hour:
    a volume may be mounted long since, where its image is being pulled.
    """
    is_mounted = any(event.get("reason") in _AFTER_MOUNTS for event in events)
    failures = [
        event
        for event in events
        if event.get("type") == "Warning"
        and event.get("reason", "").startswith(_FAILURES)
        and not (is_mounted and event.get("reason") == "FailedMount")
    ]
    return max(failures, key=_time_of, default=None)


def _time_of(event: Json) -> str:
    """When an event was last seen: those of newer reporters have `eventTime` alone."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((one for one in times if one), "")


def _joined(reason: str, message: str) -> str:
    return f"{reason}: {message}" if reason and message else reason or message
