"""Whole jobs in pods of a real cluster: their master in a pod as well, and its pod lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import selecting
from elasticdl.master.journal import read_journal
from tests.cluster.api import Namespace
from tests.job.clicks_data import ZOO, write_clicks
from tests.kubernetes.objects import client, wait_for
from tests.kubernetes.real_jobs import pod_options, shared_directory, submit

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

NAME = "clicks"
RECORDS = 2000
START_S = 300.0
END_S = 600.0


class Job:
    """One that was submitted."""

    def __init__(self, namespace: Namespace, directory: Path, **options: Any) -> None:
        self.directory = directory
        data = directory / "data"
        data.mkdir()
        given = pod_options(
            directory,
            job_name=NAME,
            namespace=namespace.name,
            model_zoo=ZOO,
            model_def="clicks.Clicks",
            data=write_clicks(data, RECORDS),
            output=str(directory / "model"),
            num_workers="2",
            num_ps="1",
            minibatch_size="8",
            **options,
        )
        self.spec = JobSpec.resolve("train", given)
        self.submitter = client(namespace.submitter, namespace)
        self.admin = client(namespace.admin, namespace)
        self.uid = submit(self.spec, self.submitter)

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        return self.submitter.list("Pod", selecting(NAME, component)).items

    def result(self) -> dict[str, Any] | None:
        path = self.directory / "job" / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def wait_for_result(self) -> dict[str, Any]:
        wait_for(self.result, "the result", END_S)
        result = self.result()
        assert result is not None
        return result

    def leftovers(self) -> list[str]:
        kinds = ("Job", "Pod", "Service", "ConfigMap", "Secret")
        return [
            f"{kind} {one['metadata']['name']}"
            for kind in kinds
            for one in self.admin.list(kind, selecting(NAME)).items
        ]

    def close(self) -> None:
        for end in (self.submitter, self.admin):
            end.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with shared_directory() as made:
        yield made


def assert_exact(result: dict[str, Any], records: int = RECORDS) -> None:
    assert result["state"] == "succeeded", result["error"]
    audit = result["audit"]
    assert audit["applied_once"] == {"0": records}
    assert audit["lost"] == audit["tasks_not_closed"] == 0


def masters(job: Job) -> list[int]:
    """Incarnations, as the journal tells them."""
    return [one.body["incarnation"] for one in read_journal(job.directory / "job", "master")]


def tasks_done(job: Job) -> int:
    try:
        return len(list(read_journal(job.directory / "job", "done")))
    except JobError:
        return 0


@pytest.fixture
def job(namespace: Namespace, directory: Path) -> Iterator[Job]:
    made = Job(namespace, directory)
    yield made
    made.close()


def test_a_job_of_pods_ends_and_leaves_nothing(job: Job) -> None:
    assert_exact(job.wait_for_result())
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)
    assert (job.directory / "model" / "trained_model.pb").exists()


def test_a_master_whose_pod_is_deleted_is_followed_by_another(job: Job) -> None:
    wait_for(lambda: tasks_done(job) > 1, "some tasks are done", START_S)
    before = {one["metadata"]["name"] for one in job.pods("worker")}
    master = job.pods("master")[0]["metadata"]["name"]
    job.submitter.delete("Pod", master)
    assert_exact(job.wait_for_result())
    assert masters(job) == [1, 2]
    # Whoever worked went on.
    told = [one.body for one in read_journal(job.directory / "job", "launch")]
    assert len([one for one in told if one["role"] == "worker"]) == len(before)
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)


def test_pods_that_are_deleted_while_the_master_is_away_are_replaced(job: Job) -> None:
    wait_for(lambda: tasks_done(job) > 1, "some tasks are done", START_S)
    gone = job.pods("ps") + job.pods("worker")[:1] + job.pods("master")
    for one in reversed(gone):
        job.submitter.delete("Pod", one["metadata"]["name"], grace_s=0)
    assert_exact(job.wait_for_result())
    assert masters(job) == [1, 2]
    wait_for(lambda: job.leftovers() == [], "nothing is left", 120)
