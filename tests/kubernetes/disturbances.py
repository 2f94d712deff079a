"""What happens to jobs of pods: others want their room, kubelets die, the apiserver is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.api import Api
from tests.cluster.cluster import Cluster
from tests.cluster.images import BUSYBOX
from tests.cluster.node import Node
from tests.cluster.processes import wait_until

SERVICE, INSTANCES, WORKERS = "test-service", "test-instances", "test-workers"
"""Priority classes: a job's master and parameter servers, what others run, a job's workers."""
_VALUES = {INSTANCES: 3000, SERVICE: 2000, WORKERS: 1000}
_READY_S = 120.0
_FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.2; done"


@contextmanager
def priorities(api: Api) -> Iterator[dict[str, str]]:
    """Have the three classes; yields the options by which a job's pods have theirs."""
    version = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    made: list[str] = []
    try:
        for name, value in _VALUES.items():
            api.create({**version, "metadata": {"name": name}, "value": value})
            made.append(name)
        yield {
            "master_pod_priority": INSTANCES,
            "ps_pod_priority": INSTANCES,
            "worker_pod_priority": WORKERS,
        }
    finally:
        for name in made:
            api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")


class Rival:
    """A Deployment that matters more than workers, in a namespace of its own.

    Args:
      api: of an administrator.
      namespace: of its own.
      cpu: that each of its pods requests.
    """

    def __init__(self, api: Api, namespace: str, cpu: str) -> None:
        self._api, self._namespace = api, namespace
        self._path = f"/apis/apps/v1/namespaces/{namespace}/deployments/rival"
        container = {"command": ["sh", "-c", _FOREVER], "resources": {"requests": {"cpu": cpu}}}
        api.create(deployment(namespace, "rival", container, terminationGracePeriodSeconds=1))

    def scale(self, replicas: int) -> None:
        """Have so many pods, from now on."""
        changes = {"spec": {"replicas": replicas}}
        self._api.call("PATCH", self._path, changes, "merge-patch+json")

    def ready(self) -> int:
        """How many of its pods run."""
        status = self._api.call("GET", self._path)["status"]
        return int(status.get("readyReplicas", 0))

    def wait_until_ready(self, replicas: int) -> None:
        """Wait until so many run, at least."""
        wait_until(lambda: self.ready() >= replicas, f"{replicas} pods of the rival", _READY_S)

    def wait_until_gone(self) -> None:
        """Wait until it has no pod any more."""
        pods = f"/api/v1/namespaces/{self._namespace}/pods"
        wait_until(lambda: not self._api.call("GET", pods)["items"], "the rival's end", _READY_S)


@contextmanager
def rival(cluster: Cluster, cpu: str) -> Iterator[Rival]:
    """A rival without pods so far; they are gone afterwards."""
    namespace = cluster.new_namespace().name
    try:
        yield Rival(cluster.api, namespace, cpu)
    finally:
        cluster.api.delete_namespace(namespace)


@contextmanager
def without_kubelet(cluster: Cluster, node: Node) -> Iterator[None]:
    """A node whose kubelet was killed: its containers run on, and nobody tells of them."""
    node.kubelet.kill()
    try:
        yield
    finally:
        node.kubelet.start_again()
        cluster.wait_for_nodes()


@contextmanager
def without_apiserver(cluster: Cluster) -> Iterator[None]:
    """The apiserver is away; it is there again afterwards, and has forgotten what was watched."""
    cluster.plane.apiserver.kill()
    try:
        yield
    finally:
        cluster.start_apiserver()


def pause(seconds: float) -> None:
    """Let something go on for a while: not to wait for anything."""
    threading.Event().wait(seconds)


def deployment(
    namespace: str,
    name: str,
    container: dict[str, Any],
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A deployment of the class SERVICE, without pods so far.

    Args:
      container: of each pod, but for its name and image.
      labels: of its pods, besides `app`.
      spec: more of its pods.
    """
    chosen = {"app": name}
    own = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": chosen},
            "template": {
                "metadata": {"labels": {**chosen, **(labels or {})}},
                "spec": {
                    "priorityClassName": SERVICE,
                    "automountServiceAccountToken": False,
                    "containers": [{**own, **container}],
                    **spec,
                },
            },
        },
    }
