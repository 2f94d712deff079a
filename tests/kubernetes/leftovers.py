"""What is in a namespace, of every kind that the apiserver has: of a job nothing may be left."""

from __future__ import annotations

import time
import urllib.error
from typing import Any

from tests.cluster.api import Api

_GONE_S = 120.0


def objects_in(api: Api, namespace: str) -> set[str]:
    """`KIND/NAME` of all there is; not Events, which the apiserver removes when they are old."""
    found = set()
    for path, kind in _collections(api):
        try:
            listed = api.call("GET", path.format(namespace=namespace))
        except urllib.error.HTTPError as error:
            if error.code in (404, 405):
                continue
            raise
        found |= {f"{kind}/{one['metadata']['name']}" for one in listed.get("items") or ()}
    return found


def wait_until_nothing_is_left(api: Api, namespace: str, before: set[str]) -> None:
    """Wait until a namespace has what it had before, and no more: deletion takes a while.

    Raises:
      AssertionError: something is left; the message says what.
    """
    end = time.monotonic() + _GONE_S
    while left := objects_in(api, namespace) - before:
        assert time.monotonic() < end, f"left: {', '.join(sorted(left))}"
        time.sleep(1)


def _collections(api: Api) -> list[tuple[str, str]]:
    """The path of all objects of a kind in `{namespace}`, and the kind: as the apiserver says."""
    versions = ["/api/v1"]
    groups = api.call("GET", "/apis")["groups"]
    versions += [f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups]
    return [
        (f"{version}/namespaces/{{namespace}}/{one['name']}", one["kind"])
        for version in versions
        for one in api.call("GET", version)["resources"]
        if _is_listed(one)
    ]


def _is_listed(resource: dict[str, Any]) -> bool:
    is_object = resource["namespaced"] and "/" not in resource["name"]
    return is_object and "list" in resource["verbs"] and resource["kind"] != "Event"
