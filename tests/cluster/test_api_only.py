"""The apiserver alone: what tests of lists, watches and rights need of it."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import Api, Namespace
from tests.cluster.api_only import ApiOnly

pytestmark = pytest.mark.apiserver


def calls_as(apiserver: ApiOnly, kubeconfig: Path) -> Api:
    token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    return Api(apiserver.api.server, apiserver.api.authority, token)


def config_map(namespace: str, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


@pytest.mark.parametrize(
    ("who", "path", "is_allowed"),
    [
        ("master", "pods", True),
        ("master", "services", True),
        ("master", "secrets", False),
        ("submitter", "secrets", True),
        ("submitter", "serviceaccounts", False),
    ],
)
def test_each_has_exactly_the_rights_of_its_role(
    apiserver: ApiOnly, api_namespace: Namespace, who: str, path: str, is_allowed: bool
) -> None:
    api = calls_as(apiserver, getattr(api_namespace, who))
    url = f"/api/v1/namespaces/{api_namespace.name}/{path}"
    if is_allowed:
        assert api.call("GET", url)["items"] is not None
    else:
        with pytest.raises(urllib.error.HTTPError, match="forbidden") as refused:
            api.call("GET", url)
        assert refused.value.code == 403
    with pytest.raises(urllib.error.HTTPError, match="forbidden"):
        api.call("GET", f"/api/v1/namespaces/default/{path}")


def test_an_object_outlives_a_restart_and_a_watch_from_before_is_gone(
    apiserver: ApiOnly, api_namespace: Namespace
) -> None:
    made = apiserver.api.create(config_map(api_namespace.name, "first"))
    version = int(made["metadata"]["resourceVersion"])
    apiserver.restart()
    url = f"/api/v1/namespaces/{api_namespace.name}/configmaps"
    assert [one["metadata"]["name"] for one in apiserver.api.call("GET", url)["items"]] == ["first"]
    first = apiserver.api.call(
        "GET", f"{url}?watch=1&resourceVersion={version - 1}&timeoutSeconds=1"
    )
    assert '"ERROR"' in json.dumps(first)
    assert "410" in json.dumps(first)
