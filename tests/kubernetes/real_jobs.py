"""Jobs of pods on the test cluster, without an image of their own: pods see this machine's Python.

Its nodes are on this machine, so a pod of a small image finds the interpreter, the packages and the
source tree in volumes of the host.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elasticdl.api.kubernetes.certificates import make_certificates
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.client import KubeClient
from elasticdl.master.cluster.kubernetes.objects import (
    Owner,
    job_secret,
    master_job,
    master_service,
)
from elasticdl.master.cluster.kubernetes.rbac import MASTER
from tests.cluster.images import BUSYBOX
from tests.docs.pages import ROOT

_SYSTEM = ("/usr", "/lib", "/lib64")


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A directory that every node sees, and pods of any user write."""
    directory = Path(tempfile.mkdtemp(prefix="elasticdl-job-", dir="/var/tmp"))
    directory.chmod(0o777)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def host_paths() -> list[Path]:
    """What pods have to see of this machine, at the same paths."""
    seen = {Path(sys.prefix), Path(sys.base_prefix), ROOT, *map(Path, _SYSTEM)}
    return [path for path in sorted(seen) if path.exists()]


def host_variables() -> dict[str, str]:
    """The environment in which pods find this machine's Python."""
    return {
        "PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def pod_options(directory: Path, **options: Any) -> dict[str, Any]:
    """The options of a job whose pods are this machine's processes in all but name."""
    volumes = [f"host_path={path},mount_path={path},read_only=true" for path in host_paths()]
    # Whoever comes later finds what the first has compiled, as in an image.
    variables = {**host_variables(), "NUMBA_CACHE_DIR": str(directory / "kernels")}
    return {
        "cluster": "kubernetes",
        "image": BUSYBOX,
        "image_pull_policy": "IfNotPresent",
        "service_account": MASTER,
        "volume": [*volumes, f"host_path={directory},mount_path={directory}"],
        "env": [f"{name}={value}" for name, value in variables.items()],
        "master_resource_request": "cpu=50m,memory=1Gi",
        "ps_resource_request": "cpu=50m,memory=1Gi",
        "worker_resource_request": "cpu=100m,memory=2Gi",
        "job_dir": str(directory / "job"),
        **options,
    }


def submit(spec: JobSpec, client: KubeClient) -> str:
    """Create a job's objects as a submission does; return its Job's uid."""
    made = client.create(_in(client, master_job(spec, spec.image, parallelism=0)))
    owner = Owner(made["metadata"]["name"], made["metadata"]["uid"])
    secret = job_secret(spec, spec.image, make_certificates(spec.job_name), owner)
    client.create(_in(client, secret))
    client.create(_in(client, master_service(spec, owner)))
    client.patch("Job", owner.name, {"spec": {"parallelism": 1}})
    return owner.uid


def _in(client: KubeClient, made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "metadata": {**made["metadata"], "namespace": client.namespace}}
