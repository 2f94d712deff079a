"""A Job of an apiserver without nodes: tests say what kubelets and schedulers would."""

from __future__ import annotations

from typing import Any

from elasticdl.master.cluster.kubernetes.objects import LaunchedBy, Owner, master_job
from tests.cluster.api import Api, Namespace
from tests.kubernetes.objects import client, set_container, wait_for
from tests.master.kubernetes.jobs import job

NAME = "mnist-1"


class BareJob:
    """A Job without a pod of its own, and what there is of it besides."""

    def __init__(self, api: Api, namespace: Namespace) -> None:
        self.api = api
        self.namespace = namespace.name
        self.admin = client(namespace.admin, namespace)
        self.master = client(namespace.master, namespace)
        made = self.admin.create(self.placed(master_job(job(), "image", parallelism=0)))
        self.owner = Owner(NAME, made["metadata"]["uid"])

    def placed(self, made: dict[str, Any]) -> dict[str, Any]:
        return {**made, "metadata": {**made["metadata"], "namespace": self.namespace}}

    def by(self, session: str = "s1", incarnation: int = 1) -> LaunchedBy:
        return LaunchedBy(self.owner, "image", "10.96.0.9:2222", incarnation, session)

    def pods(self) -> list[str]:
        return sorted(one["metadata"]["name"] for one in self.admin.list("Pod").items)

    def wait_for_name(self, name: str) -> dict[str, Any]:
        """Wait until there is a pod of this name."""
        wait_for(lambda: name in self.pods(), f"pod {name}")
        return self.admin.get("Pod", name)

    def end_container(self, name: str, code: int, reason: str = "Error") -> None:
        terminated = {"terminated": {"exitCode": code, "reason": reason}}
        set_container(self.api, self.namespace, name, state=terminated)

    def close(self) -> None:
        self.admin.close()
        self.master.close()
