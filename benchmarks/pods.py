"""Jobs and services of pods on the test cluster, as benchmarks have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.job_process import DEADLINE_S
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import INSTANCE_LABEL
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.journal import read_journal
from elasticdl.master.recovery import spec_of
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.processes import wait_until
from tests.kubernetes.disturbances import deployment
from tests.kubernetes.objects import client
from tests.kubernetes.real_jobs import host_paths, host_variables, pod_options, submit

PORT = 8080


class SubmittedJob:
    """A job of pods.

    Args:
      namespace: where it is submitted, by whoever may do that and nothing else.
      directory: that every node sees.
      name: of the job.
      options: of `train`, by name.

    Attributes:
      ended_at: seconds since the epoch; 0 while it runs.
    """

    def __init__(
        self, namespace: Namespace, directory: Path, name: str, options: Mapping[str, str]
    ) -> None:
        self.name = name
        self.directory = directory / "job"
        self.ended_at = 0.0
        self._submitted_at = time.time()
        given = {
            **options,
            "job_name": name,
            "namespace": namespace.name,
            "output": str(directory / "model"),
        }
        spec = JobSpec.resolve("train", pod_options(directory, **given))
        self._client = client(namespace.submitter, namespace)
        submit(spec, self._client)

    def has_ended(self) -> bool:
        """Whether its result is written."""
        if not self.ended_at and (self.directory / RESULT_FILE).exists():
            self.ended_at = (self.directory / RESULT_FILE).stat().st_mtime
        return bool(self.ended_at)

    def check(self) -> bool:
        """Whether it has ended, well; else it runs.

        Raises:
          SystemExit: it has failed, or takes too long.
        """
        if self.has_ended():
            result = self.result()
            if result["state"] != "succeeded" or result["audit"]["lost"]:
                raise SystemExit(f"the {self.name} job {result['state']}: {result['error']}")
        elif time.time() > self._submitted_at + 6 * DEADLINE_S:
            raise SystemExit(f"the {self.name} job does not end")
        return self.has_ended()

    def result(self) -> dict[str, Any]:
        """How it ended."""
        found: dict[str, Any] = json.loads((self.directory / RESULT_FILE).read_text())
        return found

    def tasks_done(self) -> int:
        """How many tasks are done so far."""
        try:
            return len(list(read_journal(self.directory, "done")))
        except JobError:
            return 0

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many are registered, and then until twice as many tasks more are done."""

        def are_ready() -> bool:
            return len(self._ready_workers()) >= number

        wait_until(are_ready, f"{number} workers", DEADLINE_S)
        more = self.tasks_done() + 2 * number
        wait_until(lambda: self.tasks_done() >= more, "their first tasks", DEADLINE_S)

    def _ready_workers(self) -> dict[InstanceSpec, float]:
        """When workers were registered; they import TensorFlow after that."""
        try:
            told = [one for one in read_journal(self.directory, "registered") if one.body["ready"]]
        except JobError:
            return {}
        found = {spec_of(one.body): one.time for one in told}
        return {who: at for who, at in found.items() if who.role is Role.WORKER}

    def facts(self, began: float) -> dict[str, Any]:
        """What happened when, in seconds from the beginning, and its audit."""
        ready = sorted(self._ready_workers().values())
        done = [one.time for one in read_journal(self.directory, "done")]
        times = {
            "submitted_s": self._submitted_at,
            "first_done_s": done[0],
            "last_done_s": done[-1],
            "ended_s": self.ended_at,
        }
        return {
            **{name: round(at - began, 1) for name, at in times.items()},
            "workers_ready_s": [round(at - began, 1) for at in ready],
            "audit": self.result()["audit"],
        }

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


class ServedPods:
    """The service of `benchmarks.latency_service`: a Deployment without pods so far, a Service.

    Args:
      cluster: its nodes are on this machine, so pods see this machine's Python.
      namespace: where it is.
      cpu: cores that each pod requests.
    """

    def __init__(self, cluster: Cluster, namespace: Namespace, cpu: float) -> None:
        self._api, self._node = cluster.api, cluster.nodes[0]
        self._path = f"/apis/apps/v1/namespaces/{namespace.name}/deployments/service"
        cluster.api.create(_deployment(namespace.name, cpu))
        made = cluster.api.create(_service(namespace.name))
        self._url = f"http://{made['spec']['clusterIP']}:{PORT}/"

    def scale(self, pods: int) -> None:
        """Have so many pods, from now on."""
        changes = {"spec": {"replicas": pods}}
        self._api.call("PATCH", self._path, changes, "merge-patch+json")

    def wait_until_ready(self, pods: int) -> None:
        """Wait until so many answer, and no more."""

        def is_so() -> bool:
            status = self._api.call("GET", self._path)["status"]
            return status.get("readyReplicas", 0) == pods == status.get("replicas", 0)

        wait_until(is_so, f"{pods} pods of the service", DEADLINE_S)

    def load(self, per_s: float, secs: float, seed: int) -> dict[str, Any]:
        """Ask it from a node; return what `benchmarks.latency_service.load` does.

        Raises:
          SystemExit: whoever asks has ended with an error.
        """
        options = [f"--url={self._url}", f"--per_s={per_s}", f"--secs={secs}", f"--seed={seed}"]
        command = [sys.executable, "-m", "benchmarks.latency_service", "load", *options]
        first = ["nice", "-n", "-10"]  # Who asks has a machine of his own.
        ended = subprocess.run(
            [*first, *self._node.machine.enter, *command],
            env={**os.environ, **host_variables()},
            check=False,
            capture_output=True,
            text=True,
            timeout=secs + DEADLINE_S,
        )
        if ended.returncode:
            raise SystemExit(f"the service could not be asked:\n{ended.stderr}")
        found: dict[str, Any] = json.loads(ended.stdout)
        return found


def _deployment(namespace: str, cpu: float) -> dict[str, Any]:
    paths = host_paths()
    mounts = [
        {"name": f"host-{number}", "mountPath": str(path), "readOnly": True}
        for number, path in enumerate(paths)
    ]
    volumes = [
        {"name": f"host-{number}", "hostPath": {"path": str(path)}}
        for number, path in enumerate(paths)
    ]
    container = {
        "command": [sys.executable, "-m", "benchmarks.latency_service", "serve", f"--port={PORT}"],
        "env": [{"name": name, "value": value} for name, value in host_variables().items()],
        "volumeMounts": mounts,
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {
            "requests": {"cpu": f"{cpu:g}", "memory": "128Mi"},
            "limits": {"memory": "128Mi"},
        },
    }
    return deployment(namespace, "service", container, {INSTANCE_LABEL: "service"}, volumes=volumes)


def _service(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "service", "namespace": namespace},
        "spec": {"selector": {"app": "service"}, "ports": [{"port": PORT}]},
    }
