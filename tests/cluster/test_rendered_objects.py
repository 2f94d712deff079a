"""Everything that is rendered is accepted by an apiserver of 1.20, from who may create it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from elasticdl.master.cluster.kubernetes.objects import Objects, submission_objects
from elasticdl.master.cluster.kubernetes.rbac import rbac_objects
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.master.kubernetes.jobs import BY, SECRET, job
from tests.master.kubernetes.test_objects import EVERYTHING, all_objects

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here"),
]


def apply(objects: Objects, kubeconfig: Path) -> str:
    """Have kubectl apply objects, but for their being kept; returns what it says."""
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    kubectl = ["kubectl", f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent}/cache"]
    command = [*kubectl, "apply", "--dry-run=server", "-f", "-"]
    ended = subprocess.run(
        command,
        input=json.dumps(listed),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def surroundings(apiserver: ApiOnly) -> Iterator[None]:
    """What the objects of the tests name and jobs do not make."""
    api = apiserver.api
    with suppress(HTTPError):
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "training"}})
    version = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    for value, name in enumerate(("low", "high")):
        api.create({**version, "metadata": {"name": name}, "value": value})
    yield
    for name in ("low", "high"):
        api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_apiserver_accepts_every_object(
    apiserver: ApiOnly, api_namespace: Namespace, options: dict[str, Any]
) -> None:
    objects = all_objects(job(**options))
    said = apply(objects, api_namespace.admin).splitlines()
    assert len(said) == len(objects)
    assert all(line.endswith("(server dry run)") for line in said), said


def test_who_submits_may_apply_what_a_dry_run_prints(
    api_namespace: Namespace,
) -> None:
    objects = submission_objects(job(), BY.image, SECRET)
    assert len(apply(objects, api_namespace.submitter).splitlines()) == len(objects)


def test_who_submits_may_not_apply_rights(api_namespace: Namespace) -> None:
    with pytest.raises(AssertionError, match="forbidden"):
        apply(rbac_objects(api_namespace.name, "other"), api_namespace.submitter)
