"""Jobs of pods, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.objects import LaunchedBy, Owner, instance_pod
from elasticdl.master.instances import InstanceSpec, Needs, Role

IMAGE = f"registry/model@sha256:{64 * '0'}"
OPTIONS: dict[str, Any] = {
    "cluster": "kubernetes",
    "image": IMAGE,
    "model_zoo": "model_zoo",
    "model_def": "mnist.MnistElasticDLSpec",
    "data": "/data/*.recordio",
    "output": "/data/output",
    "volume": ["claim_name=data,mount_path=/data"],
    "job_name": "mnist-1",
}
BY = LaunchedBy(Owner("mnist-1", "uid-1"), IMAGE, "10.0.0.1:2222", 3, "s1")
_ROLES = ("master", "ps", "worker")
_FILES = ("token", "job", "ca.crt", "client.crt", "client.key")
SECRET = dict.fromkeys((*_FILES, *(f"{r}.{k}" for r in _ROLES for k in ("crt", "key"))), b"secret")


def job(command: str = "train", **options: Any) -> JobSpec:
    return JobSpec.resolve(command, {**OPTIONS, **options})


def worker(index: int = 0, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.WORKER, index, incarnation)


def server(index: int = 0, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.PS, index, incarnation)


def pod_of(who: InstanceSpec, needs: Needs | None = None, **options: Any) -> dict[str, Any]:
    return instance_pod(job(**options), who, needs or Needs(), BY, "10.0.0.2:2222")


def main_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod's container that is the instance."""
    return next(one for one in pod["spec"]["containers"] if one["name"] == "elasticdl")
