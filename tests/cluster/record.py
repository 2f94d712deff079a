"""Records what a real apiserver says of pods that end in each way: python -m tests.cluster.record.

The cluster has to be up: `up --memory_gib=0.75`, as one pod takes all the memory of a node. What is
written is test data of `tests/master/kubernetes`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.api import Api
from tests.cluster.cluster import Cluster
from tests.cluster.pods import (
    LastSeen,
    Pod,
    events_of,
    path_of,
    phase_is,
    small_pod,
    state_of,
    wait_for,
)

DIRECTORY = Path(__file__).parents[1] / "master/kubernetes/recorded"
_FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.2; done"
_NODE_LOST_S = 240
_STEPS = 10
_STEP_S = 3
_SPEC = ("nodeName", "priority", "restartPolicy", "terminationGracePeriodSeconds")
_EVENT = (
    *("reason", "message", "type", "count", "firstTimestamp", "lastTimestamp", "eventTime"),
    *("series", "action", "reportingComponent", "source", "involvedObject"),
)
_UNITS = {"": 1, "m": 0.001, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Recorder:
    """Makes pods in one namespace, and writes what becomes of each.

    Attributes:
      scenarios: by the name of the file that each writes.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.api = cluster, cluster.api
        self.namespace = cluster.new_namespace().name
        self._next = 0
        self.scenarios: dict[str, Callable[[], Pod]] = {
            "completed": lambda: self.ended("exit 0"),
            "exit-1": lambda: self.ended("echo broken >&2; exit 1"),
            "exit-77": lambda: self.ended("exit 77"),
            "killed": self.killed,
            "oom-killed": lambda: self.ended("tail /dev/zero", memory="16Mi"),
            "oom-of-a-child": lambda: self.ended("tail /dev/zero; exit 3", memory="16Mi"),
            "command-not-found": self.command_not_found,
            "running": lambda: self.made(_FOREVER, phase_is("Running")),
            "unschedulable": self.unschedulable,
            "image-pull": self.image_pull,
            "invalid-image-name": self.invalid_image_name,
            "config-error": self.config_error,
            "no-such-volume": self.no_such_volume,
            "init-image-pull": self.init_image_pull,
            "init-failed": self.init_failed,
            "being-deleted": self.being_deleted,
            "deleted": lambda: self.deleted(_FOREVER),
            "deleted-and-killed": lambda: self.deleted("trap '' TERM; while :; do sleep 1; done"),
            "deleted-before-it-ran": self.deleted_before_it_ran,
            "evicted-for-disk": self.evicted_for_disk,
            "out-of-cpu": self.out_of_cpu,
            "being-preempted": lambda: self.preempted(is_waited_for=False),
            "preempted": lambda: self.preempted(is_waited_for=True),
            "node-lost": self.node_lost,
            "evicted-for-memory": self.evicted_for_memory,
            "evicted-for-memory-at-once": self.evicted_for_memory_at_once,
        }

    def create(self, script: str, **more: Any) -> Pod:
        self._next += 1
        return self.api.create(small_pod(self.namespace, self._next, script, **more))

    def made(self, script: str, is_so: Callable[[Pod], object], **more: Any) -> Pod:
        return wait_for(self.api, self.create(script, **more), is_so)

    def ended(self, script: str, memory: str = "") -> Pod:
        limits = {"resources": {"limits": {"memory": memory}}} if memory else {}
        return self.made(script, phase_is("Succeeded", "Failed"), container=limits)

    def killed(self) -> Pod:
        """By SIGKILL, of somebody else on its node."""
        pod = self.made("sleep 1000", phase_is("Running"))
        node = next(n for n in self.cluster.nodes if n.name == pod["spec"]["nodeName"])
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        node.ctr("task", "kill", "--signal=SIGKILL", container)
        return wait_for(self.api, pod, phase_is("Failed"))

    def command_not_found(self) -> Pod:
        more = {"command": ["/no-such-program"]}

        def is_told(pod: Pod) -> bool:
            return phase_is("Failed")(pod) or _waits(pod) not in ("", "ContainerCreating")

        return self.made("", is_told, container=more)

    def unschedulable(self) -> Pod:
        more = {"resources": {"requests": {"cpu": "100"}}}

        def is_told(pod: Pod) -> bool:
            return any(one.get("status") == "False" for one in pod["status"].get("conditions", ()))

        return self.made(_FOREVER, is_told, container=more)

    def image_pull(self) -> Pod:
        more = {"image": "127.0.0.1:1/no-such-image:1", "imagePullPolicy": "Always"}
        return self.made("", _waits_for("ImagePullBackOff"), container=more)

    def invalid_image_name(self) -> Pod:
        return self.made("", _waits_for("InvalidImageName"), container={"image": "UPPER:case:1"})

    def config_error(self) -> Pod:
        key = {"secretKeyRef": {"name": "no-such-secret", "key": "key"}}
        more = {"env": [{"name": "SECRET", "valueFrom": key}]}
        return self.made(_FOREVER, _waits_for("CreateContainerConfigError"), container=more)

    def no_such_volume(self) -> Pod:
        volume = {"name": "lost", "secret": {"secretName": "no-such-secret"}}
        mounts = {"volumeMounts": [{"name": "lost", "mountPath": "/lost"}]}

        def is_told(pod: Pod) -> bool:
            return any(one["reason"] == "FailedMount" for one in events_of(self.api, pod))

        return self.made(_FOREVER, is_told, container=mounts, volumes=[volume])

    def init_image_pull(self) -> Pod:
        first = {"name": "first", "image": "127.0.0.1:1/no-such-image:1"}

        def is_told(pod: Pod) -> bool:
            states = [one["state"] for one in pod["status"].get("initContainerStatuses", ())]
            return any("Pull" in state.get("waiting", {}).get("reason", "") for state in states)

        return self.made(_FOREVER, is_told, initContainers=[first])

    def init_failed(self) -> Pod:
        pod = small_pod(self.namespace, 0, "exit 3")
        first = {**pod["spec"]["containers"][0], "name": "first"}
        return self.made(_FOREVER, phase_is("Failed"), initContainers=[first])

    def being_deleted(self) -> Pod:
        pod = self.made(
            "trap '' TERM; while :; do sleep 1; done",
            phase_is("Running"),
            terminationGracePeriodSeconds=5,
        )
        self.api.delete(path_of(pod))
        return self.api.call("GET", path_of(pod))

    def deleted(self, script: str) -> Pod:
        pod = self.made(script, phase_is("Running"))
        seen = LastSeen(self.api, pod)
        self.api.delete(path_of(pod))
        return seen.wait_until_gone()

    def deleted_before_it_ran(self) -> Pod:
        pod = self.unschedulable()
        seen = LastSeen(self.api, pod)
        self.api.delete(path_of(pod))
        return seen.wait_until_gone()

    def evicted_for_disk(self) -> Pod:
        volume = {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}
        mounts = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
        script = "dd if=/dev/zero of=/scratch/file bs=1M count=4; sleep 1000"
        return self.made(script, phase_is("Failed"), container=mounts, volumes=[volume])

    def evicted_for_memory(self) -> Pod:
        """It takes what pods of its node may have, and has asked for less; its kubelet measures."""
        step = self.room_mib() // _STEPS
        script = (
            f"for i in $(seq {_STEPS}); do dd if=/dev/zero of=/held/$i bs=1M count={step}; "
            f"sleep {_STEP_S}; done; dd if=/dev/zero of=/held/last bs=1M count=24; sleep 1000"
        )
        held = {"name": "held", "emptyDir": {"medium": "Memory"}}
        more = {
            "resources": {"requests": {"memory": "16Mi"}},
            "volumeMounts": [{"name": "held", "mountPath": "/held"}],
        }
        pod = self.create(script, container=more, volumes=[held], nodeName="node-1")
        return wait_for(self.api, pod, phase_is("Failed"))

    def evicted_for_memory_at_once(self) -> Pod:
        """It takes that before it is measured: its kubelet does not know how much it had."""
        more = {"resources": {"requests": {"memory": "16Mi"}}}
        script = f"dd if=/dev/zero of=/dev/null bs={self.room_mib() + 8}M"
        pod = self.create(script, container=more, nodeName="node-1")
        return wait_for(self.api, pod, phase_is("Failed"))

    def room_mib(self) -> int:
        return int(self.allocatable("node-1", "memory")) >> 20

    def out_of_cpu(self) -> Pod:
        more = {"resources": {"requests": {"cpu": "100"}}}
        return self.made(_FOREVER, phase_is("Failed"), container=more, nodeName="node-0")

    def preempted(self, *, is_waited_for: bool) -> Pod:
        """A pod takes a node for itself; one that matters more wants it."""
        room = int(self.allocatable("node-0", "cpu") * 1000)
        more = {
            "container": {"resources": {"requests": {"cpu": f"{room * 6 // 10}m"}}},
            "nodeSelector": {"kubernetes.io/hostname": "node-0"},
        }
        with self.priority_class("recorded-high", 1000):
            pod = self.made(
                "trap 'sleep 2; exit 143' TERM; while :; do sleep 0.2; done",
                phase_is("Running"),
                terminationGracePeriodSeconds=10,
                **more,
            )
            seen = LastSeen(self.api, pod)
            other = self.create(_FOREVER, priorityClassName="recorded-high", **more)
            if is_waited_for:
                pod = seen.wait_until_gone()
                # It is told after the deletion.
                wait_for(
                    self.api,
                    other,
                    lambda _: any(e["reason"] == "Preempted" for e in events_of(self.api, pod)),
                )
            else:
                pod = wait_for(self.api, pod, lambda one: "deletionTimestamp" in one["metadata"])
            self.api.delete(path_of(other), grace_s=0)
            return pod

    def node_lost(self) -> Pod:
        """Its kubelet was killed; what is recorded is what comes 30 s after that is noticed."""
        tolerations = [
            {
                "key": f"node.kubernetes.io/{what}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            }
            for what in ("not-ready", "unreachable")
        ]
        node = self.cluster.nodes[1]
        pod = self.create(_FOREVER, tolerations=tolerations, nodeName=node.name)
        wait_for(self.api, pod, phase_is("Running"))
        node.kubelet.kill()
        try:
            return wait_for(
                self.api, pod, lambda one: "deletionTimestamp" in one["metadata"], _NODE_LOST_S
            )
        finally:
            node.kubelet.start_again()
            self.cluster.wait_for_nodes()

    @contextmanager
    def priority_class(self, name: str, value: int) -> Iterator[None]:
        metadata = {"name": name}
        version = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        self.api.create({**version, "metadata": metadata, "value": value})
        try:
            yield
        finally:
            self.api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")

    def allocatable(self, node: str, what: str) -> float:
        """What pods may request of a node: bytes or cores."""
        given = self.api.call("GET", f"/api/v1/nodes/{node}")["status"]["allocatable"][what]
        number = given.rstrip("mKMGi")
        return int(number) * _UNITS[given.removeprefix(number)]

    def record(self, name: str) -> None:
        pod = self.scenarios[name]()
        write(DIRECTORY / f"{name}.json", self.api, pod)
        self.api.delete(path_of(pod), grace_s=0)


def write(path: Path, api: Api, pod: Pod) -> None:
    """Write what was answered of a pod, shortened: of its spec, and of what each event is of."""
    events = [{key: one[key] for key in _EVENT if key in one} for one in events_of(api, pod)]
    spec = {key: pod["spec"][key] for key in _SPEC if key in pod["spec"]}
    metadata = {key: value for key, value in pod["metadata"].items() if key != "managedFields"}
    shortened = {**pod, "metadata": metadata, "spec": spec}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"pod": shortened, "events": events}, indent=1) + "\n")


def _waits(pod: Pod) -> str:
    return (state_of(pod).get("waiting") or {}).get("reason", "")


def _waits_for(reason: str) -> Callable[[Pod], bool]:
    return lambda pod: _waits(pod) == reason


def main() -> None:
    recorder = Recorder(Cluster())
    try:
        for name in sys.argv[1:] or recorder.scenarios:
            print(name, flush=True)
            recorder.record(name)
    finally:
        recorder.api.delete_namespace(recorder.namespace)


if __name__ == "__main__":
    main()
