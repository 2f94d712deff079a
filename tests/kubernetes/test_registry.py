"""From the Docker engine through the registry to a pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.docker import Engine
from tests.cluster.images import write_images
from tests.cluster.pods import path_of, phase_is, small_pod, wait_for

pytestmark = pytest.mark.kubernetes


def test_a_pod_runs_an_image_that_was_pushed_by_its_digest(
    engine: Engine, registry: str, cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    _, archive = write_images(tmp_path)
    name = f"{registry}/team/small"
    client = engine.client()
    try:
        image = client.images.load(archive.read_bytes())[0]
        image.tag(name, "1")
        said = list(client.images.push(name, "1", stream=True, decode=True))
    finally:
        client.close()
    digest = next(line["aux"]["Digest"] for line in said if "aux" in line)
    cluster.add_registry(int(registry.rpartition(":")[2]))
    for node in cluster.nodes:
        pod = small_pod(
            namespace.name,
            node.index,
            "echo runs",
            container={"image": f"{name}@{digest}", "imagePullPolicy": "Always"},
            nodeName=node.name,
        )
        pod = wait_for(cluster.api, cluster.api.create(pod), phase_is("Succeeded", "Failed"))
        assert cluster.api.call("GET", f"{path_of(pod)}/log") == "runs\n"
        assert digest in pod["status"]["containerStatuses"][0]["imageID"]
