"""What a pod says: each row of the page's table, the first that fits."""

from __future__ import annotations

from typing import Any

import pytest

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.pod_state import (
    Runs,
    Waits,
    classify,
    end_of,
    is_event_of,
    state_of,
)
from elasticdl.master.exits import Cause, End
from tests.master.kubernetes.jobs import worker
from tests.master.kubernetes.pods import (
    Pod,
    deleted,
    event,
    failed,
    pod,
    running,
    terminated,
    unscheduled,
    waiting,
    with_state,
)

WHO = worker(3, 7)
PREEMPTED = event("Preempted", "Preempted by default/service on node node-a")
TAINTED = event("TaintManagerEviction", "Marking for deletion Pod default/mnist-1-worker-3-7")


def disrupted(made: Pod, reason: str) -> Pod:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}
    return {**made, "status": {**made["status"], "conditions": [condition]}}


@pytest.mark.parametrize(
    ("made", "events", "cause", "exit_code"),
    [
        (terminated(WHO, 137, "OOMKilled"), [], Cause.OUT_OF_MEMORY, -9),
        (terminated(WHO, 77), [], Cause.OUT_OF_MEMORY, -9),
        # Of some child of it: its own code counts.
        (terminated(WHO, 1, "OOMKilled"), [], Cause.EXITED, 1),
        (terminated(WHO, 143, "OOMKilled"), [], Cause.KILLED, -15),
        (deleted(terminated(WHO, 137, "OOMKilled")), [PREEMPTED], Cause.OUT_OF_MEMORY, -9),
        (deleted(terminated(WHO, 143)), [PREEMPTED], Cause.PREEMPTED, -15),
        (deleted(terminated(WHO, 0, "Completed")), [PREEMPTED], Cause.PREEMPTED, 0),
        (disrupted(terminated(WHO, 143), "PreemptionByScheduler"), [], Cause.PREEMPTED, -15),
        (disrupted(terminated(WHO, 143), "EvictionByEvictionAPI"), [], Cause.EVICTED, -15),
        (disrupted(terminated(WHO, 143), "DeletionByTaintManager"), [], Cause.NODE_LOST, -15),
        (failed(WHO, "Preempting", "for a system pod"), [], Cause.PREEMPTED, 0),
        (failed(WHO, "Evicted", "low on memory"), [], Cause.EVICTED, 0),
        (failed(WHO, "OutOfcpu", "too little"), [], Cause.EVICTED, 0),
        (failed(WHO, "UnexpectedAdmissionError"), [], Cause.EVICTED, 0),
        (failed(WHO, "NodeLost"), [], Cause.NODE_LOST, 0),
        (deleted(terminated(WHO, 143)), [TAINTED], Cause.NODE_LOST, -15),
        (deleted(terminated(WHO, 143)), [], Cause.DELETED, -15),
        (deleted(terminated(WHO, 1)), [], Cause.DELETED, 1),
        (terminated(WHO, 0, "Completed"), [], Cause.EXITED, 0),
        (terminated(WHO, 1), [], Cause.EXITED, 1),
        (terminated(WHO, 76), [], Cause.EXITED, 76),
        (terminated(WHO, 128), [], Cause.EXITED, 128),
        (terminated(WHO, 128, "StartError"), [], Cause.NOT_STARTED, 128),
        (terminated(WHO, 127, "ContainerCannotRun"), [], Cause.NOT_STARTED, 127),
        (deleted(terminated(WHO, 128, "StartError")), [], Cause.DELETED, 128),
        (terminated(WHO, 137), [], Cause.KILLED, -9),
        (terminated(WHO, 139), [], Cause.KILLED, -11),
    ],
)
def test_an_end_has_its_cause(
    made: Pod, events: list[dict[str, Any]], cause: Cause, exit_code: int
) -> None:
    found = classify(made, events)
    assert isinstance(found, InstanceEnded)
    assert found.spec == WHO
    assert (found.end.cause, found.end.exit_code) == (cause, exit_code)


def test_whose_end_its_kubelet_missed_was_deleted_all_the_same() -> None:
    made = waiting(WHO, "ContainerCreating")
    unknown = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "not located"}
    made["status"]["phase"] = "Failed"
    made["status"]["containerStatuses"][1]["lastState"] = {"terminated": unknown}
    assert end_of(deleted(made)) == End(Cause.DELETED, -9, "its pod was deleted")
    assert end_of(deleted(made), [PREEMPTED]).cause is Cause.PREEMPTED
    never_ran = waiting(WHO, "ContainerCreating")
    never_ran["status"]["phase"] = "Failed"
    assert end_of(deleted(never_ran)).cause is Cause.EVICTED


@pytest.mark.parametrize(
    ("exit_code", "is_crash"), [(1, True), (139, True), (134, True), (137, False), (143, False)]
)
def test_who_ends_by_its_own_doing_crashes(exit_code: int, is_crash: bool) -> None:
    found = classify(terminated(WHO, exit_code))
    assert isinstance(found, InstanceEnded)
    assert found.end.is_crash == is_crash


@pytest.mark.parametrize("cause", [c for c in Cause if c not in (Cause.EXITED, Cause.KILLED)])
def test_what_the_cluster_does_is_no_crash(cause: Cause) -> None:
    assert End(cause, 1).is_crash == (cause is Cause.NOT_STARTED)
    assert not End(cause).is_crash
    assert End(cause, message="so it is").describe() == f"{cause}: so it is"


def test_the_end_of_a_process_is_told_as_before() -> None:
    assert End.of_exit_code(1) == End(Cause.EXITED, 1)
    assert End.of_exit_code(-9) == End(Cause.KILLED, -9)
    assert End.of_exit_code(-9).describe() == "killed by SIGKILL"
    assert not End.of_exit_code(-9).is_crash
    assert End.of_exit_code(-11).is_crash


@pytest.mark.parametrize(
    ("made", "events", "why", "is_error"),
    [
        (unscheduled(WHO, "no room"), [], "Unschedulable: no room", False),
        (waiting(WHO, "ErrImagePull", "not found"), [], "ErrImagePull: not found", True),
        (waiting(WHO, "ImagePullBackOff"), [], "ImagePullBackOff", True),
        (waiting(WHO, "InvalidImageName"), [], "InvalidImageName", True),
        (
            waiting(WHO, "CreateContainerConfigError", "x"),
            [],
            "CreateContainerConfigError: x",
            True,
        ),
        (waiting(WHO, "CreateContainerError"), [], "CreateContainerError", True),
        (waiting(WHO, "ContainerCreating"), [], "ContainerCreating", False),
        (waiting(WHO, "PodInitializing"), [event("Pulled")], "PodInitializing", False),
        (
            waiting(WHO, "ContainerCreating"),
            [
                event("FailedMount", "no such secret", "Warning", "2026-01-01T00:00:02Z"),
                event("FailedScheduling", "no room", "Warning", "2026-01-01T00:00:01Z"),
            ],
            "FailedMount: no such secret",
            True,
        ),
        (
            waiting(WHO, "ContainerCreating"),
            [
                event("FailedMount", "not yet", "Warning", "2026-01-01T00:00:01Z"),
                event("FailedCreatePodSandBox", "no network", "Warning", "2026-01-01T00:00:02Z"),
            ],
            "FailedCreatePodSandBox: no network",
            False,
        ),
        # It goes on saying so while it tries again, which may take long and succeed.
        (
            waiting(WHO, "ErrImagePull", "timeout"),
            [
                event("Pulling", "image", "Normal", "2026-01-01T00:00:01Z"),
                event("Failed", "timeout", "Warning", "2026-01-01T00:00:02Z"),
                event("BackOff", "image", "Normal", "2026-01-01T00:00:03Z"),
                event("Pulling", "image", "Normal", "2026-01-01T00:00:13Z"),
            ],
            "Pulling: image",
            False,
        ),
        (
            waiting(WHO, "ImagePullBackOff", "image"),
            [
                event("Pulling", "image", "Normal", "2026-01-01T00:00:02Z"),
                event("Failed", "not found", "Warning", "2026-01-01T00:00:02Z"),
            ],
            "ImagePullBackOff: image",
            True,
        ),
        # A large image takes its time: what was wrong before is over.
        (
            waiting(WHO, "ContainerCreating"),
            [
                event("FailedMount", "not yet", "Warning", "2026-01-01T00:00:01Z"),
                event("Pulling", "image", "Normal", "2026-01-01T00:00:02Z"),
            ],
            "ContainerCreating",
            False,
        ),
    ],
)
def test_who_waits_says_why(
    made: Pod, events: list[dict[str, Any]], why: str, is_error: bool
) -> None:
    for_room = why.startswith("Unschedulable")
    assert classify(made, events) == InstanceWaits(WHO, why, is_error, for_room)


def test_who_has_a_node_and_no_more_is_about_to_be_created() -> None:
    made = pod(WHO)
    assert state_of(made) is None
    made["spec"]["nodeName"] = "node-0"
    assert state_of(made) == Waits("ContainerCreating")


def test_an_event_of_an_older_reporter_has_its_time_elsewhere() -> None:
    old = {**event("FailedMount", "x", "Warning"), "lastTimestamp": "2026-01-01T00:00:03Z"}
    new = event("FailedScheduling", "y", "Warning", "2026-01-01T00:00:02.000001Z")
    assert state_of(waiting(WHO, "ContainerCreating"), [old, new]) == Waits("FailedMount: x", True)


def test_an_image_of_an_init_container_is_waited_for_as_the_pods_own() -> None:
    first = {"name": "first", "state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}}
    made = pod(WHO, initContainerStatuses=[first])
    assert state_of(made) == Waits("ErrImagePull: x", is_error=True)


def test_who_waits_for_others_before_it_waits_for_what_they_wait_for() -> None:
    first = {"name": "first", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    made = waiting(WHO, "PodInitializing")
    made["status"]["initContainerStatuses"] = [
        {"name": "ended", "state": {"terminated": {}}},
        first,
    ]
    assert state_of(made) == Waits("ImagePullBackOff", is_error=True)


def test_what_a_pod_was_only_warned_of_is_not_why_it_waits() -> None:
    warned = event("DNSConfigForming", "too many", "Warning", "2026-01-01T00:00:02Z")
    failed_before = event("FailedMount", "x", "Warning", "2026-01-01T00:00:01Z")
    made = waiting(WHO, "ContainerCreating")
    assert state_of(made, [warned]) == Waits("ContainerCreating")
    assert state_of(made, [failed_before, warned]) == Waits("FailedMount: x", is_error=True)


@pytest.mark.parametrize(
    ("involved", "time", "is_of_it"),
    [
        ({"uid": "uid-1"}, "2026-01-01T00:00:00Z", True),
        ({"uid": "uid-2"}, "2026-01-01T00:00:02Z", False),
        # The taint manager's Events have no uid.
        ({}, "2026-01-01T00:00:02Z", True),
        ({}, "2026-01-01T00:00:00Z", False),
        ({"kind": "Job"}, "2026-01-01T00:00:02Z", False),
        ({"name": "another"}, "2026-01-01T00:00:02Z", False),
    ],
)
def test_an_event_is_of_the_pod_that_it_names(
    involved: dict[str, str], time: str, is_of_it: bool
) -> None:
    made = pod(WHO, uid="uid-1")
    made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z"
    told = event("TaintManagerEviction", time=time)
    told["involvedObject"] = {"kind": "Pod", "name": made["metadata"]["name"], **involved}
    assert is_event_of(told, made) == is_of_it


def test_an_init_container_that_fails_is_named() -> None:
    first = {"name": "first", "state": {"terminated": {"exitCode": 3}}}
    made = pod(WHO, "Failed", initContainerStatuses=[first])
    end = state_of(made)
    assert end == End(Cause.NOT_STARTED, 3, "init container first: exit code 3")
    assert end.is_crash, "or pods of a template that cannot work would be made for ever"
    made["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:02Z"
    assert not state_of(made).is_crash


def test_a_pod_that_nobody_has_looked_at_says_nothing() -> None:
    assert classify(pod(WHO)) is None


def test_who_runs_says_where_and_goes_on_to_while_it_is_deleted() -> None:
    assert classify(running(WHO)) == InstanceStarted(WHO, 0, "node-a")
    assert state_of(deleted(running(WHO)), [PREEMPTED]) == Runs("node-a")


def test_who_waits_and_is_deleted_says_nothing_any_more() -> None:
    assert classify(deleted(unscheduled(WHO))) is None


def test_a_container_of_the_template_does_not_count() -> None:
    made = with_state(WHO, "Running", terminated={"exitCode": 1, "reason": "Error"})
    assert state_of(made) == End(Cause.EXITED, 1, "Error")


def test_what_is_no_instance_is_none() -> None:
    made = terminated(WHO, 1)
    made["metadata"]["labels"] = {"app.kubernetes.io/component": "check"}
    assert classify(made) is None
    assert state_of(made) == End(Cause.EXITED, 1, "Error")
