"""Whole jobs in pods of a real cluster: their master in a pod as well, and its pod lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from elasticdl.master.cluster.kubernetes.last_acts import read_result
from elasticdl.master.cluster.kubernetes.names import SESSION_ANNOTATION, selecting
from elasticdl.master.exits import Cause
from elasticdl.pod_rules import JOB_DIR_OF_POD
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.docs.pages import ROOT
from tests.kubernetes.objects import wait_for
from tests.kubernetes.real_jobs import shared_directory
from tests.kubernetes.whole_jobs import END_S, NAME, START_S, PodJob, assert_exact, training

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

RECORDS = 2000


@pytest.fixture
def directory() -> Iterator[Path]:
    with shared_directory() as made:
        yield made


@pytest.fixture
def job(namespace: Namespace, directory: Path) -> Iterator[PodJob]:
    made = PodJob(namespace, directory, **training(directory, RECORDS))
    yield made
    made.close()


def test_a_job_of_pods_ends_and_leaves_nothing(job: PodJob) -> None:
    wait_for(
        lambda: job.pods("check") and job.pods("ps"),
        "a parameter server that starts while the model is checked",
        START_S,
    )
    assert_exact(job.wait_for_result(), RECORDS)
    launched = job.entries("launch")
    assert len([one for one in launched if one["role"] == "ps"]) == 1
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)
    assert (job.output / "trained_model.pb").exists()


def test_a_master_whose_pod_is_deleted_is_followed_by_another(job: PodJob) -> None:
    wait_for(lambda: job.tasks_done() > 1, "some tasks are done", START_S)
    before = {one["metadata"]["name"] for one in job.pods("worker")}
    master = job.pods("master")[0]["metadata"]["name"]
    job.submitter.delete("Pod", master)
    assert_exact(job.wait_for_result(), RECORDS)
    assert job.masters() == [1, 2]
    # Whoever worked went on.
    told = job.entries("launch")
    assert len([one for one in told if one["role"] == "worker"]) == len(before)
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)


def test_pods_that_are_deleted_while_the_master_is_away_are_replaced(job: PodJob) -> None:
    wait_for(lambda: job.tasks_done() > 1, "some tasks are done", START_S)
    gone = job.pods("ps") + job.pods("worker")[:1] + job.pods("master")
    for one in reversed(gone):
        job.submitter.delete("Pod", one["metadata"]["name"], grace_s=0)
    assert_exact(job.wait_for_result(), RECORDS)
    assert job.masters() == [1, 2]
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)


def test_an_evaluation_whose_master_is_lost_with_its_directory_begins_again(
    namespace: Namespace, directory: Path
) -> None:
    """It has no output, so nothing of it is where another pod would find it."""
    given = training(directory, RECORDS)
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "elasticdl.api", "train", "--num_workers=0"]
    command += ["--minibatch_size=8", *options]
    home = {"ELASTICDL_HOME": str(directory / "home")}
    subprocess.run(command, check=True, timeout=START_S, cwd=ROOT, env={**os.environ, **home})
    job = PodJob(
        namespace,
        directory,
        "evaluate",
        trained_model=given["output"],
        data=given["data"],
        keep_objects="result",
        job_dir=None,
    )
    assert job.spec.job_dir == JOB_DIR_OF_POD
    sessions: set[str] = set()

    def result() -> dict[str, Any] | None:
        for one in job.pods("worker"):
            sessions.add(one["metadata"]["annotations"][SESSION_ANNOTATION])
        return read_result(job.spec, job.submitter)

    try:
        wait_for(lambda: [one for one in job.pods("worker") if runs(one)], "a worker", START_S)
        job.submitter.delete("Pod", job.pods("master")[0]["metadata"]["name"])
        wait_for(result, "the result", END_S)
        found = result() or {}
        assert found["state"] == "succeeded", found["error"]
        audit = found["audit"]
        counted = audit["records_expected"], audit["counted_once"], audit["lost"]
        assert counted == (RECORDS, RECORDS, 0)
        assert {f"{job.uid}.2"} == {one for one in sessions if not one.endswith(".1")}
        wait_for(lambda: job.leftovers() == [f"ConfigMap {NAME}-result"], "the rest is gone", 120)
    finally:
        job.close()


def runs(pod: dict[str, Any]) -> bool:
    """Whether its container does."""
    statuses = pod["status"].get("containerStatuses") or []
    return any("running" in one["state"] for one in statuses)


def test_who_runs_out_of_memory_gets_more(namespace: Namespace, directory: Path) -> None:
    """TensorFlow alone needs more than this: of the check as of workers."""
    job = PodJob(
        namespace,
        directory,
        **training(directory, RECORDS),
        worker_resource_request="cpu=100m,memory=350Mi",
        memory_limit_max="2Gi",
    )
    try:
        assert_exact(job.wait_for_result(), RECORDS)
    finally:
        job.close()
    worked = job.entries("launch") + job.entries("exited")
    bodies = [one for one in worked if one["role"] == "worker"]
    assert max(one.get("memory_factor", 1.0) for one in bodies) > 1.0
    assert [one for one in bodies if str(Cause.OUT_OF_MEMORY) in one["reason"]]


def test_a_partition_that_finds_no_room_gets_that_of_a_worker(
    cluster: Cluster, namespace: Namespace, directory: Path
) -> None:
    cpus = {f"{role}_resource_request": "cpu=100m,memory=1Gi" for role in ("ps", "worker")}
    job = PodJob(namespace, directory, **training(directory, RECORDS), **cpus)
    try:
        wait_for(lambda: job.tasks_done() > 1, "some tasks are done", START_S)
        check = selecting(job.spec.job_name, "check")
        wait_for(lambda: not job.submitter.list("Pod", check).items, "the check's pod is gone")
        # A master, two workers, and no room for a parameter server once this one is gone.
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "cpus", "namespace": namespace.name},
            "spec": {"hard": {"requests.cpu": "300m"}},
        }
        cluster.api.create(quota)
        job.submitter.delete("Pod", job.pods("ps")[0]["metadata"]["name"])
        assert_exact(job.wait_for_result(), RECORDS)
    finally:
        job.close()
    ended = job.entries("exited")
    gave = [one for one in ended if one["reason"].endswith("a parameter server needed its room")]
    assert [one["role"] for one in gave] == ["worker"]
    assert job.masters() == [1]


def test_a_master_that_is_killed_is_started_again_where_it_is(job: PodJob) -> None:
    wait_for(lambda: job.tasks_done() > 1, "some tasks are done", START_S)
    processes = [
        one
        for one in psutil.process_iter(["cmdline"])
        if {"elasticdl.api.pod_master", f"--job_dir={job.spec.job_dir}"}
        <= set(one.info["cmdline"] or ())
    ]
    assert len(processes) == 1
    processes[0].kill()
    assert_exact(job.wait_for_result(), RECORDS)
    assert job.masters() == [1, 2]
    assert len(job.entries("launch")) == 3, "its instances went on"


def test_a_job_whose_model_is_wrong_fails_before_a_worker_is_launched(
    namespace: Namespace, directory: Path
) -> None:
    job = PodJob(namespace, directory, **training(directory, RECORDS), params="no_such_parameter=1")
    try:
        result = job.wait_for_result()
        assert result["state"] == "failed"
        assert "no_such_parameter" in result["error"]
        wait_for(lambda: job.leftovers() == [], "nothing is left", 120)
    finally:
        job.close()
    assert not (job.directory / "journal.sqlite").exists(), "no job began"
