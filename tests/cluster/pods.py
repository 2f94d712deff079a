"""Small pods for tests of the cluster, and how long one waits for what becomes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from elasticdl.master.cluster.kubernetes.names import instance_labels, pod_name
from elasticdl.master.cluster.kubernetes.pod_state import is_event_of
from elasticdl.master.cluster.kubernetes.pod_template import MAIN
from elasticdl.master.membership import InstanceSpec, Role
from tests.cluster.api import Api
from tests.cluster.images import BUSYBOX

Pod = dict[str, Any]
JOB = "recorded"
_WAIT_S = 120


def small_pod(
    namespace: str,
    index: int,
    script: str,
    *,
    container: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    """Return a pod that runs a script of a shell, labelled as a job's worker.

    Args:
      index: of the worker.
      container: more fields of its container.
      spec: more fields of the pod's.
    """
    who = InstanceSpec(Role.WORKER, index, 1)
    main = {"name": MAIN, "image": BUSYBOX, "command": ["sh", "-c", script]}
    main["imagePullPolicy"] = "IfNotPresent"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(JOB, who),
            "namespace": namespace,
            "labels": instance_labels(JOB, who),
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [{**main, **(container or {})}],
            **spec,
        },
    }


def path_of(pod: Pod) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def events_of(api: Api, pod: Pod) -> list[dict[str, Any]]:
    metadata = pod["metadata"]
    url = f"/api/v1/namespaces/{metadata['namespace']}/events"
    found = api.call("GET", f"{url}?fieldSelector=involvedObject.name={metadata['name']}")["items"]
    return [event for event in found if is_event_of(event, pod)]


def wait_for(
    api: Api, pod: Pod, is_so: Callable[[Pod], object], deadline_s: float = _WAIT_S
) -> Pod:
    """Wait until a pod is as it should be; returns it.

    Raises:
      TimeoutError: it never is; the message is its status.
    """
    end = time.monotonic() + deadline_s
    while not is_so(seen := api.call("GET", path_of(pod))):
        if time.monotonic() > end:
            raise TimeoutError(f"{pod['metadata']['name']}: {seen['status']}")
        time.sleep(0.2)
    return seen


def phase_is(*phases: str) -> Callable[[Pod], bool]:
    return lambda pod: pod["status"].get("phase") in phases


def state_of(pod: Pod) -> dict[str, Any]:
    """The state of its container, `{}` where there is none yet."""
    statuses = pod["status"].get("containerStatuses") or [{}]
    return statuses[0].get("state") or {}


class LastSeen:
    """Watches one pod until it is not there any more.

    Attributes:
      versions: all that the watch has told of it, oldest first.
    """

    def __init__(self, api: Api, pod: Pod) -> None:
        self.versions: list[Pod] = []
        self._gone = threading.Event()
        metadata = pod["metadata"]
        self._url = (
            f"/api/v1/namespaces/{metadata['namespace']}/pods?watch=1&timeoutSeconds=300"
            f"&fieldSelector=metadata.name={metadata['name']}"
            f"&resourceVersion={metadata['resourceVersion']}"
        )
        self._api = api
        threading.Thread(target=self._watch, daemon=True).start()

    def wait_until_gone(self, deadline_s: float = _WAIT_S) -> Pod:
        """Returns the pod as it was last."""
        if not self._gone.wait(deadline_s):
            raise TimeoutError(f"not gone within {deadline_s:.0f} s: {self.versions[-1]['status']}")
        return self.versions[-1]

    def _watch(self) -> None:
        for event in self._api.lines(self._url):
            self.versions.append(event["object"])
            if event["type"] == "DELETED":
                self._gone.set()
                return
