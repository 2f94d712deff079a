"""A port of a real pod, reached from this machine by who may submit jobs, and its log."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from elasticdl.api.kubernetes.pod_logs import PodLog
from elasticdl.api.kubernetes.port_forward import PortForward
from elasticdl.master.cluster.kubernetes.client import KubeClient
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.pods import Pod, phase_is, small_pod, wait_for
from tests.kubernetes.objects import client as client_of
from tests.kubernetes.objects import wait_for as wait_until

pytestmark = pytest.mark.kubernetes

SIZE = 3_000_000
SERVE = (
    "mkdir /tmp/www; echo hello from $HOSTNAME >/tmp/www/name; "
    f"yes elasticdl | head -c {SIZE} >/tmp/www/large; "
    "echo first; sleep 2; echo second; httpd -f -p 127.0.0.1:8080 -h /tmp/www"
)


@pytest.fixture
def client(namespace: Namespace) -> Iterator[KubeClient]:
    made = client_of(namespace.submitter, namespace)
    yield made
    made.close()


def serving(cluster: Cluster, namespace: Namespace, number: int) -> Pod:
    pod = cluster.api.create(small_pod(namespace.name, number, SERVE))
    return wait_for(cluster.api, pod, phase_is("Running"))


def fetched(address: str, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/{path}", timeout=20) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def test_a_port_on_a_pods_loopback_is_reached_and_another_pod_when_that_is_named(
    cluster: Cluster, namespace: Namespace, client: KubeClient
) -> None:
    names = [serving(cluster, namespace, number)["metadata"]["name"] for number in (0, 1)]
    named = names[0]
    with PortForward(client, lambda: named, 8080) as address:
        wait_until(lambda: fetched(address, "name"), "the first pod serves")
        assert fetched(address, "name").decode() == f"hello from {names[0]}\n"
        assert len(fetched(address, "large")) == SIZE
        named = names[1]
        wait_until(lambda: fetched(address, "name"), "the second pod serves")
        assert fetched(address, "name").decode() == f"hello from {names[1]}\n"
        named = "none"
        assert fetched(address, "name") == b""
    assert fetched(address, "name") == b""  # Nobody listens any more.


def test_a_followed_log_has_each_line_once(
    cluster: Cluster, namespace: Namespace, client: KubeClient
) -> None:
    pod = serving(cluster, namespace, 0)
    name = pod["metadata"]["name"]
    found: list[str] = []
    following = PodLog(client, pod).follower()

    def look() -> bool:
        found.extend(line.event for line in following.read())
        return "second" in found

    wait_until(look, f"the log of {name}")
    found.extend(line.event for line in following.rest())
    assert found == ["first", "second"]
