"""Finds what is wrong with the pods of a job before anything is built or submitted."""

from __future__ import annotations

from typing import Any

from elasticdl.data.filesystems import file_system
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError
from elasticdl.master.cluster.kubernetes.names import CHECK, object_name
from elasticdl.master.cluster.kubernetes.objects import (
    LaunchedBy,
    Owner,
    check_pod,
    instance_pod,
    master_job,
)
from elasticdl.master.instances import InstanceSpec, Needs, Role

Json = dict[str, Any]

_INVALID, _BAD_REQUEST = 422, 400


def jobs_of_pods(spec: JobSpec, image: str) -> dict[str, Json]:
    """Make the Job, and one of each kind of pod that its master will make.

    Returns:
      By the pod's role a Job with a pod of it; only the master's is ever created.

    Raises:
      UsageError: one cannot be made.
    """
    try:
        file_system(spec.job_dir)
    except UsageError as error:
        raise UsageError(f"job_dir: {error}") from None
    job = master_job(spec, image)
    by = LaunchedBy(Owner(object_name(spec.job_name), ""), image, "", 1, "")
    pods = {CHECK: check_pod(spec, 1, Needs(), by)}
    for role in (Role.PS, Role.WORKER):
        pods[role.value] = instance_pod(spec, InstanceSpec(role, 0, 1), Needs(), by)
    return {
        Role.MASTER.value: job,
        **{role: _job_of(pod, job) for role, pod in pods.items()},
    }


def check_accepted(client: KubeClient, spec: JobSpec, jobs: dict[str, Json]) -> None:
    """Have the apiserver look at the pods of a job, by dry runs: a template has much it may refuse.

    Whoever submits jobs may create Jobs but no pods, so each pod is shown to it as a Job's. Where
    the apiserver says no more than that it cannot say, the job itself will tell.

    Args:
      jobs: as `jobs_of_pods` makes them.

    Raises:
      UsageError: a pod is refused for what it is.
    """
    for role, job in jobs.items():
        try:
            client.create(job, dry_run=True)
        except KubeError as error:
            if error.status == _INVALID or (
                error.status == _BAD_REQUEST and "cannot be handled as a" in str(error)
            ):
                where = f"pod_template '{spec.pod_template}': " if spec.pod_template else ""
                raise UsageError(
                    f"{where}the cluster refuses the pod of a {role}: {error}"
                ) from None


def _job_of(pod: Json, job: Json) -> Json:
    """A Job that differs from another in its pod."""
    metadata = {name: pod["metadata"][name] for name in ("labels", "annotations")}
    template = {"metadata": metadata, "spec": pod["spec"]}
    return {**job, "spec": {**job["spec"], "template": template}}
