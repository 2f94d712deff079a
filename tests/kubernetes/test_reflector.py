"""What a reflector tells of the pods of a real apiserver, also of one that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from elasticdl.master.cluster.kubernetes.client import Json, KubeClient, Watch
from elasticdl.master.cluster.kubernetes.reflector import Reflector
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.kubernetes.objects import client, pod, set_status, wait_for

pytestmark = pytest.mark.apiserver

LABELS = {"of": "test"}


class Told:
    """What is there by what was told."""

    def __init__(self) -> None:
        self.pods: dict[str, str] = {}
        self.lists: list[float] = []
        self.changes: list[tuple[str, str]] = []
        self.thread: set[str] = set()

    def on_list(self, pods: list[Json], asked_at: float) -> None:
        self.thread.add(threading.current_thread().name)
        self.pods = {one["metadata"]["name"]: one["status"]["phase"] for one in pods}
        self.lists.append(asked_at)

    def on_change(self, change: Json) -> None:
        self.thread.add(threading.current_thread().name)
        name = change["object"]["metadata"]["name"]
        self.changes.append((change["type"], name))
        self.pods[name] = change["object"]["status"]["phase"]
        if change["type"] == "DELETED":
            del self.pods[name]


@pytest.fixture
def master(api_namespace: Namespace) -> Iterator[KubeClient]:
    made = client(api_namespace.master, api_namespace)
    yield made
    made.close()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def reflector(master: KubeClient, told: Told) -> Iterator[Reflector]:
    made = Reflector(master, LABELS, told.on_list, told.on_change)
    yield made
    made.close()


def test_a_change_is_told_at_once_and_by_the_watch(
    apiserver: ApiOnly,
    api_namespace: Namespace,
    master: KubeClient,
    reflector: Reflector,
    told: Told,
) -> None:
    master.create(pod("before"))
    reflector.start()
    wait_for(lambda: told.pods == {"before": "Pending"}, "the list")
    master.create(pod("after"))
    wait_for(lambda: "after" in told.pods, "what was created")
    set_status(apiserver.api, api_namespace.name, "after", phase="Running")
    wait_for(lambda: told.pods["after"] == "Running", "what runs")
    master.delete("Pod", "before", grace_s=0)
    wait_for(lambda: told.pods == {"after": "Running"}, "what was deleted")
    assert len(told.lists) == 1
    assert told.thread == {"reflector"}


def test_pods_are_listed_again_and_again(master: KubeClient, told: Told) -> None:
    reflector = Reflector(master, LABELS, told.on_list, told.on_change, watch_s=1)
    reflector.start()
    wait_for(lambda: len(told.lists) >= 3, "a third list")
    reflector.close()
    assert told.lists == sorted(told.lists)


def test_a_list_comes_when_it_is_wanted(
    master: KubeClient, reflector: Reflector, told: Told
) -> None:
    reflector.start()
    wait_for(lambda: told.lists, "the first list")
    wait_for(lambda: reflector._watch is not None, "the watch")
    reflector.list_now()
    wait_for(lambda: len(told.lists) == 2, "another list", deadline_s=20)


def test_nothing_is_missed_while_the_apiserver_is_away(
    apiserver: ApiOnly, master: KubeClient, reflector: Reflector, told: Told
) -> None:
    master.create(pod("goes"))
    master.create(pod("stays"))
    reflector.start()
    wait_for(lambda: len(told.pods) == 2, "the list")
    apiserver.plane.apiserver.kill()
    wait_for(lambda: not apiserver.plane.apiserver.is_running(), "its end")
    apiserver.restart()
    # The watch is gone; whatever the reflector is at, it finds this.
    master.delete("Pod", "goes", grace_s=0)
    master.create(pod("new"))
    wait_for(lambda: set(told.pods) == {"stays", "new"}, "what is there now")
    assert len(told.lists) >= 2


class FromLongAgo(KubeClient):
    """One whose watches begin with what the apiserver does not know any more."""

    def watch(self, kind: str, resource_version: str, *arguments: Any) -> Watch:
        return super().watch(kind, "1", *arguments)


class CutShort(KubeClient):
    """One whose watches end at once, as by a proxy in between."""

    def watch(self, *arguments: Any) -> Watch:
        made = super().watch(*arguments)
        made.close()
        return made


@pytest.mark.parametrize("kind", [FromLongAgo, CutShort])
def test_watches_that_come_to_nothing_follow_each_other_more_and_more_slowly(
    master: KubeClient, told: Told, kind: type[KubeClient]
) -> None:
    made = kind(master._api.configuration, master.namespace)
    reflector = Reflector(made, LABELS, told.on_list, told.on_change)
    reflector.start()
    wait_for(lambda: len(told.lists) >= 4, "a fourth list")
    reflector.close()
    made.close()
    pauses = [later - one for one, later in pairwise(told.lists)]
    assert all(pause >= least for pause, least in zip(pauses, (0.5, 1.0, 2.0), strict=False))


def test_it_ends_in_the_middle_of_a_watch(
    master: KubeClient, reflector: Reflector, told: Told
) -> None:
    reflector.start()
    wait_for(lambda: told.lists, "the list")
    began = time.monotonic()
    reflector.close()
    # Its watch would have taken 30 s; a request that was begun just then takes one answer.
    assert time.monotonic() - began < 20
    master.create(pod("after"))
    assert told.changes == []
