"""The check of a model in pods of a real apiserver, and what a job leaves when it has ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from elasticdl.errors import JobError, UserCodeError
from elasticdl.master.cluster.kubernetes import check as check_module
from elasticdl.master.cluster.kubernetes.check import (
    Check,
    CheckServicer,
    read_checked,
    save_checked,
)
from elasticdl.master.cluster.kubernetes.last_acts import (
    KEEP_ANNOTATION,
    end_job,
    read_result,
)
from elasticdl.master.cluster.kubernetes.names import selecting
from elasticdl.master.cluster.kubernetes.objects import (
    instance_pod,
    partition_service,
)
from elasticdl.master.instances import Needs
from elasticdl.proto import check_pb2
from tests.cluster.api import Api, Namespace
from tests.cluster.api_only import ApiOnly
from tests.kubernetes.bare_jobs import NAME, BareJob
from tests.kubernetes.objects import wait_for
from tests.master.kubernetes.jobs import job, server, worker

pytestmark = pytest.mark.apiserver

REPORT = {"report": {"warnings": []}, "resolved": {"keras": "3", "column_types": []}}
ERROR = {"is_users_code": True, "exit_code": 1, "message": "wrong", "traceback_text": "here"}


class Checked(BareJob):
    """A check that runs in a thread, as a master has it."""

    def __init__(self, api: Api, namespace: Namespace) -> None:
        super().__init__(api, namespace)
        self.servicer = CheckServicer()
        self.waits: list[str] = []
        self.found: Any = None

    def start(self, **options: Any) -> threading.Thread:
        check = Check(
            job(**options),
            self.master,
            self.by(),
            self.servicer,
            lambda: None,
            self.waits.append,
        )

        def run() -> None:
            try:
                self.found = check.run()
            except JobError as error:
                self.found = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def wait_for_pod(self, number: int) -> str:
        name = f"{NAME}-check-0-{number}"
        self.wait_for_name(name)
        return name

    def end(self, number: int, code: int) -> None:
        self.end_container(self.wait_for_pod(number), code)

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        request = check_pb2.CheckAnswer(number=number, answer=json.dumps(answer))
        self.servicer.answer(request)


@pytest.fixture
def checked(apiserver: ApiOnly, api_namespace: Namespace) -> Iterator[Checked]:
    made = Checked(apiserver.api, api_namespace)
    yield made
    made.close()


def test_a_check_that_answered_is_over_and_what_it_resolved_is_kept(checked: Checked) -> None:
    thread = checked.start()
    checked.wait_for_pod(1000)
    checked.answer(1000, REPORT)
    thread.join(30)
    assert checked.found == REPORT
    wait_for(lambda: checked.pods() == [], "its pod is gone")
    assert read_checked(job(), checked.master) == {}
    for _ in range(2):  # A master may do it again.
        save_checked(job(), checked.master, checked.by(), REPORT["resolved"])
    assert read_checked(job(), checked.master) == REPORT["resolved"]


def test_a_model_that_raises_fails_the_check_with_its_traceback(checked: Checked) -> None:
    thread = checked.start()
    checked.wait_for_pod(1000)
    checked.answer(1000, {"error": ERROR})
    thread.join(30)
    assert isinstance(checked.found, UserCodeError)
    assert (str(checked.found), checked.found.traceback_text) == ("wrong", "here")


def test_a_check_that_was_lost_is_made_again_elsewhere(checked: Checked) -> None:
    thread = checked.start()
    checked.admin.delete("Pod", checked.wait_for_pod(1000), grace_s=0)
    checked.wait_for_pod(1001)
    checked.answer(1001, REPORT)
    thread.join(30)
    assert checked.found == REPORT


def test_a_check_without_memory_gets_more(checked: Checked) -> None:
    thread = checked.start()
    checked.end(1000, 77)
    main = checked.admin.get("Pod", checked.wait_for_pod(1001))["spec"]["containers"][0]
    assert main["resources"]["limits"]["memory"] == "6Gi"
    checked.answer(1001, REPORT)
    thread.join(30)


def test_a_check_that_crashes_again_and_again_fails_the_job(checked: Checked) -> None:
    thread = checked.start()
    for number in range(1000, 1000 + check_module.MOST_CRASHES):
        checked.end(number, 1)
    thread.join(60)
    assert "ended 5 times: exit code 1" in str(checked.found)


def keep(checked: Checked, spec: Any, **kept: bool) -> None:
    """Have an instance and its service, end the job, and compare what is there then."""
    for made in (
        instance_pod(spec, worker(), Needs(), checked.by()),
        partition_service(spec, server(), checked.owner),
    ):
        checked.admin.create(checked.placed(made))
    result = {"state": "succeeded", "error": "", "history": []}
    end_job(spec, checked.master, checked.owner, result)
    there = {
        "pods": bool(checked.admin.list("Pod", selecting(NAME)).items),
        "services": bool(checked.admin.list("Service", selecting(NAME)).items),
        "job": any(
            not one["metadata"].get("deletionTimestamp")
            for one in checked.admin.list("Job", selecting(NAME)).items
        ),
        "result": read_result(spec, checked.master) == result,
    }
    assert there == kept
    end_job(spec, checked.master, checked.owner, result)  # The next master may do so.


def test_an_ended_job_leaves_nothing(checked: Checked) -> None:
    keep(checked, job(), pods=False, services=False, job=False, result=False)


def test_an_ended_job_leaves_what_it_is_asked_to(checked: Checked) -> None:
    keep(checked, job(keep_objects="all"), pods=True, services=True, job=True, result=True)


def test_an_ended_job_leaves_its_result_to_whoever_detached(checked: Checked) -> None:
    annotation = {"metadata": {"annotations": {KEEP_ANNOTATION: "result"}}}
    checked.admin.patch("Job", NAME, annotation)
    keep(checked, job(), pods=False, services=False, job=False, result=True)
