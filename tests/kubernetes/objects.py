"""Objects and clients of tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import Configuration

from elasticdl.master.cluster.kubernetes.client import KubeClient
from tests.cluster.api import Api, Namespace

WAIT_S = 60.0


def client(kubeconfig: Path, namespace: Namespace) -> KubeClient:
    configuration = Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    return KubeClient(configuration, namespace.name)


def config_map(name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"of": name}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A pod that no kubelet will run."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"of": "test"}},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeName": "nowhere",
            "containers": [{"name": "elasticdl", "image": "none"}],
        },
    }


def set_status(api: Api, namespace: str, name: str, **status: Any) -> dict[str, Any]:
    """Say of a pod what its kubelet would."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    changed: dict[str, Any] = api.call("PATCH", path, {"status": status}, "merge-patch+json")
    return changed


def set_container(api: Api, namespace: str, name: str, **container: Any) -> dict[str, Any]:
    """Say of a pod's container what its kubelet would: `state`, `lastState`."""
    told = {"name": "elasticdl", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
    return set_status(api, namespace, name, containerStatuses=[{**told, **container}])


def wait_for(is_so: Callable[[], object], what: str, deadline_s: float = WAIT_S) -> None:
    end = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.05)
