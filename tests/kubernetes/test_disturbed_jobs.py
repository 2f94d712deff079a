"""Jobs of pods on a real cluster to which everything happens: each ends, its audit exact.

What happened, and why, is in their events; what is left of them, nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elasticdl.master.instances import InstanceSpec, Role
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.kubernetes.disturbances import (
    pause,
    priorities,
    rival,
    without_apiserver,
    without_kubelet,
)
from tests.kubernetes.leftovers import objects_in, wait_until_nothing_is_left
from tests.kubernetes.real_jobs import shared_directory
from tests.kubernetes.whole_jobs import WholeJob, instance, next_of, node_of

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200)]

NOTICED_S = 240.0
AWAY_S = 10.0

Submit = Callable[..., WholeJob]


@pytest.fixture
def submit(cluster: Cluster, namespace: Namespace) -> Iterator[Submit]:
    """Submits a job; of one that ended nothing is left after the test."""
    before = objects_in(cluster.api, namespace.name)
    made: list[WholeJob] = []
    with shared_directory() as directory:

        def submit_one(**options: Any) -> WholeJob:
            assert not made, "one job a test"
            made.append(WholeJob(namespace, directory, **options))
            return made[0]

        yield submit_one
        try:
            if made and made[0].result() is not None:
                wait_until_nothing_is_left(cluster.api, namespace.name, before)
        finally:
            for job in made:
                job.close()


@pytest.mark.parametrize(
    "lost", [("worker",), ("ps",), ("master",), ("worker", "ps", "master")], ids="+".join
)
def test_whoever_is_deleted_is_replaced(submit: Submit, lost: tuple[str, ...]) -> None:
    job = submit(checkpoint_secs="5")
    job.wait_until_it_trains()
    gone = [job.running(role)[0] for role in lost]
    job.delete(gone)
    launched = [instance(pod) for pod, role in zip(gone, lost, strict=True) if role != "master"]
    for who in launched:
        job.wait_for(lambda who=who: job.has_joined(next_of(who)), f"whoever replaces {who}")
    if "master" in lost:
        job.wait_for(lambda: len(job.masters()) > 1, "another master")
    job.wait_until_it_trains()
    job.end_exactly()
    masters = [InstanceSpec(Role.MASTER, 0, 1)] if "master" in lost else []
    for who in launched + masters:
        assert job.ends()[who].startswith("deleted")
    assert job.masters() == ([1, 2] if masters else [1])


@pytest.mark.short
def test_workers_make_room_for_what_matters_more_and_come_back(
    submit: Submit, cluster: Cluster
) -> None:
    with priorities(cluster.api) as classes, rival(cluster, "250m") as other:
        job = submit(
            num_workers="1..4",
            worker_resource_request="cpu=200m,memory=1536Mi",
            grace_s="30",
            **classes,
        )
        job.wait_until_it_trains()
        job.wait_for(lambda: len(job.running("worker")) >= 3, "three workers run", NOTICED_S)
        # Two on each node: what is left there is no room for as many workers.
        other.scale(4)
        other.wait_until_ready(4)
        job.wait_for(
            lambda: any(why.startswith("preempted") for why in job.ends().values()),
            "a preempted worker is told of",
        )
        job.wait_until_it_trains()
        other.scale(0)
        other.wait_until_gone()
        job.wait_for(lambda: len(job.running("worker")) >= 3, "the workers are back", NOTICED_S)
        job.wait_until_it_trains()
        job.end_exactly()
        assert [who for who in job.ends() if who.role is not Role.WORKER] == []


def test_a_node_whose_kubelet_is_dead_is_left(submit: Submit, cluster: Cluster) -> None:
    job = submit(num_workers="3", checkpoint_secs="5")
    job.wait_until_it_trains()
    master = node_of(job.running("master")[0])
    node = next(one for one in cluster.nodes if one.name != master)
    lost = [one for one in job.running("worker") + job.running("ps") if node_of(one) == node.name]
    assert lost, "the scheduler has placed them all on one node"
    with without_kubelet(cluster, node):
        job.wait_for(
            lambda: all(instance(one) in job.ends() for one in lost),
            "everybody there is given up",
            NOTICED_S,
        )
        job.wait_until_it_trains(more=20)
    job.end_exactly()
    assert {job.ends()[instance(one)].partition(":")[0] for one in lost} <= {"node lost"}
    assert job.masters() == [1]


def test_a_master_on_a_node_whose_kubelet_is_dead_is_followed(
    submit: Submit, cluster: Cluster
) -> None:
    """It runs on, and nobody can stop it: it must do nothing any more."""
    job = submit(checkpoint_secs="5")
    job.wait_until_it_trains()
    master = node_of(job.running("master")[0])
    node = next(one for one in cluster.nodes if one.name == master)
    with without_kubelet(cluster, node):
        job.wait_for(lambda: len(job.masters()) > 1, "another master", NOTICED_S)
        job.wait_until_it_trains(more=20)
        job.end_exactly()
    assert job.masters() == [1, 2]
    assert job.ends()[InstanceSpec(Role.MASTER, 0, 1)].startswith("node lost")


def test_a_worker_without_memory_gets_more(submit: Submit) -> None:
    job = submit(
        model_def="hungry.Hungry",
        params="mib=900",
        worker_resource_request="cpu=100m,memory=1Gi",
        oom_memory_factor="2",
    )
    job.wait_until_it_trains()
    job.end_exactly()
    ends = [why for who, why in job.ends().items() if who.role is Role.WORKER]
    assert any(why.startswith("out of memory") for why in ends)
    told = [one["memory_factor"] for one in job.entries("launch") if "memory_factor" in one]
    assert set(told) == {2.0}


def test_a_job_trains_on_while_the_apiserver_is_away(submit: Submit, cluster: Cluster) -> None:
    job = submit()
    job.wait_until_it_trains()
    with without_apiserver(cluster):
        pause(AWAY_S)
    job.wait_until_it_trains(more=20)
    job.end_exactly()
    assert job.ends() == {}
    assert job.masters() == [1]
