"""What tests of Kubernetes start from. A conftest imports those that its tests use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import cluster as clusters
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.cluster.cluster import Cluster
from tests.cluster.kubernetes import Part, check_built
from tests.cluster.packages import NotHere


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiOnly]:
    """etcd and kube-apiserver alone: objects, watches and rights, but nobody acts on them."""
    try:
        check_built(Part.APISERVER)
    except NotHere as reason:
        pytest.skip(str(reason))
    with tempfile.TemporaryDirectory(prefix="elasticdl-apiserver-") as directory:
        served = ApiOnly(Path(directory))
        try:
            served.start()
            yield served
        finally:
            served.stop()


@pytest.fixture
def api_namespace(apiserver: ApiOnly) -> Iterator[Namespace]:
    """A namespace of `apiserver` for one test."""
    made = apiserver.new_namespace()
    yield made
    apiserver.api.delete_namespace(made.name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A whole cluster: the one that is up, or one for these tests."""
    if reason := clusters.why_not():
        pytest.skip(reason)
    if clusters.is_up():
        yield Cluster()
        return
    try:
        yield clusters.up()
    finally:
        clusters.down()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of `cluster` for one test."""
    made = cluster.new_namespace()
    yield made
    cluster.api.delete_namespace(made.name)
