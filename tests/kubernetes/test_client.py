"""The client against a real apiserver: what it asks, and what it makes of refusals and silence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from elasticdl.master.cluster.kubernetes.client import (
    Conflict,
    Forbidden,
    Gone,
    Json,
    KubeClient,
    KubeError,
    NotAsked,
    NotFound,
    Unanswered,
)
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.kubernetes.objects import client, config_map, pod

pytestmark = pytest.mark.apiserver

LABELS = {"of": "test"}


@pytest.fixture
def master(api_namespace: Namespace) -> Iterator[KubeClient]:
    """With the rights of a job's master, and no others."""
    made = client(api_namespace.master, api_namespace)
    yield made
    made.close()


@pytest.fixture
def admin(api_namespace: Namespace) -> Iterator[KubeClient]:
    made = client(api_namespace.admin, api_namespace)
    yield made
    made.close()


def until_deleted(changes: Iterator[Json]) -> Iterator[Json]:
    for change in changes:
        yield change
        if change["type"] == "DELETED":
            return


def test_what_was_created_is_read_listed_replaced_and_deleted(master: KubeClient) -> None:
    made = master.create(config_map("one", key="a"))
    assert master.get("ConfigMap", "one") == made
    changed = master.replace({**made, "data": {"key": "b"}})
    assert changed["data"] == {"key": "b"}
    assert changed["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]

    master.create(pod("first"))
    master.create(pod("other", {"of": "another"}))
    listed = master.list("Pod", LABELS)
    assert [one["metadata"]["name"] for one in listed.items] == ["first"]
    assert int(listed.resource_version) > 0
    by_field = master.list("Pod", fields={"metadata.name": "other"})
    assert [one["metadata"]["name"] for one in by_field.items] == ["other"]

    master.delete("Pod", "first", grace_s=0)
    with pytest.raises(NotFound, match="first"):
        master.get("Pod", "first")


def test_one_of_two_that_change_the_same_version_is_refused(master: KubeClient) -> None:
    made = master.create(config_map("one", key="a"))
    with pytest.raises(Conflict) as twice:
        master.create(config_map("one", key="b"))
    assert twice.value.reason == "AlreadyExists"
    master.replace({**made, "data": {"key": "b"}})
    with pytest.raises(Conflict) as late:
        master.replace({**made, "data": {"key": "c"}})
    assert late.value.reason == "Conflict"
    assert master.get("ConfigMap", "one")["data"] == {"key": "b"}


def test_a_patch_of_a_version_that_was_read_does_not_undo_a_later_one(master: KubeClient) -> None:
    ports = [{"port": 2222}]
    service = master.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "ps-0"},
            "spec": {"ports": ports, "selector": {"incarnation": "1"}},
        }
    )
    read = {"resourceVersion": service["metadata"]["resourceVersion"]}
    patched = master.patch(
        "Service", "ps-0", {"metadata": read, "spec": {"selector": {"incarnation": "2"}}}
    )
    assert patched["spec"]["selector"] == {"incarnation": "2"}
    assert patched["spec"]["clusterIP"] == service["spec"]["clusterIP"]
    with pytest.raises(Conflict):
        master.patch(
            "Service", "ps-0", {"metadata": read, "spec": {"selector": {"incarnation": "1"}}}
        )
    assert master.get("Service", "ps-0")["spec"]["selector"] == {"incarnation": "2"}


def test_only_the_object_that_was_meant_is_deleted(master: KubeClient) -> None:
    first = master.create(pod("one"))
    master.delete("Pod", "one", grace_s=0)
    second = master.create(pod("one"))
    with pytest.raises(Conflict):
        master.delete("Pod", "one", grace_s=0, uid=first["metadata"]["uid"])
    assert master.get("Pod", "one")["metadata"]["uid"] == second["metadata"]["uid"]
    master.delete("Pod", "one", grace_s=0, uid=second["metadata"]["uid"])


def test_a_master_may_not_read_secrets(master: KubeClient) -> None:
    with pytest.raises(Forbidden, match="cannot list resource") as refused:
        master.list("Secret")
    assert not refused.value.is_quota


def test_a_used_up_quota_is_told_from_a_missing_right(
    apiserver: ApiOnly, api_namespace: Namespace, master: KubeClient
) -> None:
    apiserver.api.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": api_namespace.name},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    # Nobody counts without a controller: the status is what it would say.
    path = f"/api/v1/namespaces/{api_namespace.name}/resourcequotas/none/status"
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    apiserver.api.call("PATCH", path, status, "merge-patch+json")
    with pytest.raises(Forbidden, match="exceeded quota") as refused:
        master.create(pod("one"))
    assert refused.value.is_quota


def test_what_is_no_object_is_refused_with_what_is_wrong(master: KubeClient) -> None:
    made = pod("one")
    made["spec"]["containers"] = []
    with pytest.raises(KubeError, match=r"spec\.containers") as refused:
        master.create(made)
    assert refused.value.status == 422


def test_a_watch_tells_what_changed_since_a_list(master: KubeClient) -> None:
    master.create(pod("before"))
    version = master.list("Pod", LABELS).resource_version
    watch = master.watch("Pod", version, LABELS, for_s=30)
    master.create(pod("after"))
    master.create(pod("another", {"of": "another"}))
    master.delete("Pod", "before", grace_s=0)
    changes = iter(watch)
    told = [(one["type"], one["object"]["metadata"]["name"]) for one in until_deleted(changes)]
    assert told[0] == ("ADDED", "after")
    assert told[-1] == ("DELETED", "before")
    assert {name for _, name in told} == {"after", "before"}
    watch.close()
    assert list(changes) == []


def test_a_watch_ends_after_its_time(master: KubeClient) -> None:
    version = master.list("Pod", LABELS).resource_version
    assert list(master.watch("Pod", version, LABELS, for_s=1)) == []


def test_an_apiserver_that_does_not_answer_is_not_waited_for(
    apiserver: ApiOnly, master: KubeClient
) -> None:
    version = master.list("Pod", LABELS).resource_version
    watch = iter(master.watch("Pod", version, LABELS, for_s=1))
    pid = apiserver.plane.apiserver.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(Unanswered):
            master.create(config_map("one"), timeout_s=1.0)
        with pytest.raises(Unanswered):
            next(watch)
        assert time.monotonic() - began < 60
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_apiserver_that_is_away_was_not_asked_and_forgets_the_past(
    apiserver: ApiOnly, master: KubeClient
) -> None:
    version = master.list("Pod", LABELS).resource_version
    apiserver.plane.apiserver.kill()
    try:
        # Of a connection that was open, that it is closed may come late.
        with pytest.raises((NotAsked, Unanswered)):
            master.create(config_map("one"))
        with pytest.raises(NotAsked):
            master.create(config_map("one"))
    finally:
        apiserver.restart()
    master.create(pod("one"))
    with pytest.raises(Gone):
        # What its cache has began when it was started.
        list(master.watch("Pod", "1", LABELS, for_s=5))
    assert version
