"""The cluster's own tests."""

from tests.cluster.fixtures import api_namespace, apiserver, cluster, namespace

__all__ = ["api_namespace", "apiserver", "cluster", "namespace"]
