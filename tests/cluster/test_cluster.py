"""The whole cluster: what tests of jobs as pods rely on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.cluster.api import Api, Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.pods import LastSeen, Pod, path_of, phase_is, small_pod, wait_for

pytestmark = pytest.mark.kubernetes
SERVE = (
    "mkdir /tmp/www; echo hello from $HOSTNAME >/tmp/www/index.html; httpd -f -p 8080 -h /tmp/www"
)


def service(namespace: str, name: str, selector: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def log_of(api: Api, pod: Pod) -> str:
    return api.call("GET", f"{path_of(pod)}/log")


def test_who_brings_one_up_twice_is_told_of_the_first(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "tests.cluster", "up"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"export KUBECONFIG={cluster.admin}\n" in ended.stdout
    assert ended.stdout.startswith("there is one already")


@pytest.mark.short
def test_pods_of_both_nodes_reach_a_service(cluster: Cluster, namespace: Namespace) -> None:
    api, name = cluster.api, namespace.name
    serves = small_pod(name, 0, SERVE, nodeName=cluster.nodes[0].name)
    serves["metadata"]["labels"]["serves"] = "yes"
    serves = wait_for(api, api.create(serves), phase_is("Running"))
    address = api.create(service(name, "web", {"serves": "yes"}))["spec"]["clusterIP"]
    ask = f"until wget -q -O - http://{address}/; do sleep 0.2; done"
    asking = [
        api.create(small_pod(name, 1 + node.index, ask, nodeName=node.name))
        for node in cluster.nodes
    ]
    for pod in asking:
        wait_for(api, pod, phase_is("Succeeded"))
        assert log_of(api, pod) == f"hello from {serves['metadata']['name']}\n"


@pytest.mark.short
def test_a_pod_is_told_of_its_end_and_goes(cluster: Cluster, namespace: Namespace) -> None:
    script = "trap 'echo ends; exit 7' TERM; echo began; while :; do sleep 0.1; done"
    pod = cluster.api.create(small_pod(namespace.name, 0, script, terminationGracePeriodSeconds=20))
    pod = wait_for(cluster.api, pod, phase_is("Running"))
    seen = LastSeen(cluster.api, pod)
    cluster.api.delete(path_of(pod))
    last = seen.wait_until_gone()
    assert last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


def test_pods_run_on_while_the_apiserver_is_away(cluster: Cluster, namespace: Namespace) -> None:
    script = "for i in $(seq 300); do echo $i; sleep 0.1; done"
    pod = cluster.api.create(small_pod(namespace.name, 0, script))
    wait_for(cluster.api, pod, phase_is("Running"))
    cluster.plane.apiserver.kill()
    assert not cluster.api.is_ready()
    cluster.start_apiserver()
    wait_for(cluster.api, pod, phase_is("Succeeded"))
    assert log_of(cluster.api, pod).split() == [str(i) for i in range(1, 301)]


def test_what_pods_may_request_is_less_than_the_machine_has(cluster: Cluster) -> None:
    nodes = cluster.api.call("GET", "/api/v1/nodes")["items"]
    assert len(nodes) == len(cluster.nodes)
    for node in nodes:
        assert node["status"]["allocatable"]["cpu"] != node["status"]["capacity"]["cpu"]


def test_nothing_outside_is_reached(cluster: Cluster, namespace: Namespace) -> None:
    pod = cluster.api.create(
        small_pod(namespace.name, 0, "nc -w 5 192.0.2.1 80 </dev/null && exit 3; exit 0")
    )
    assert wait_for(cluster.api, pod, phase_is("Succeeded", "Failed"))["status"]["phase"] == (
        "Succeeded"
    )


def test_a_namespace_that_is_deleted_takes_all_along(cluster: Cluster) -> None:
    made = cluster.new_namespace()
    pod = cluster.api.create(small_pod(made.name, 0, "sleep 1000"))
    wait_for(cluster.api, pod, phase_is("Running"))
    cluster.api.delete_namespace(made.name)
    with pytest.raises(HTTPError, match="NotFound"):
        wait_for(cluster.api, pod, lambda _: False, 60)
