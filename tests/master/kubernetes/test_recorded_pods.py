"""What a real apiserver of 1.20 says of pods that end in each way, and what is read from it.

`python -m tests.cluster.record` has written it, and shortened what nobody reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.pod_state import classify, end_of, is_event_of
from elasticdl.master.exits import Cause

DIRECTORY = Path(__file__).parent / "recorded"
ENDS = [
    ("completed", Cause.EXITED, 0),
    ("exit-1", Cause.EXITED, 1),
    ("exit-77", Cause.OUT_OF_MEMORY, -9),
    ("killed", Cause.KILLED, -9),
    ("oom-killed", Cause.OUT_OF_MEMORY, -9),
    ("oom-of-a-child", Cause.EXITED, 3),
    ("command-not-found", Cause.NOT_STARTED, 128),
    ("deleted", Cause.DELETED, -15),
    ("deleted-and-killed", Cause.DELETED, -9),
    ("evicted-for-disk", Cause.EVICTED, 0),
    ("evicted-for-memory", Cause.EVICTED, 0),
    ("evicted-for-memory-at-once", Cause.EVICTED, 0),
    ("out-of-cpu", Cause.EVICTED, 0),
    ("preempted", Cause.PREEMPTED, -15),
    ("init-failed", Cause.NOT_STARTED, 3),
]
WAITS = [
    ("unschedulable", "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu.", False),
    ("image-pull", "ImagePullBackOff: Back-off pulling image", True),
    ("init-image-pull", "ErrImagePull: ", True),
    ("invalid-image-name", "InvalidImageName: ", True),
    ("config-error", 'CreateContainerConfigError: secret "no-such-secret" not found', True),
    ("no-such-volume", 'FailedMount: MountVolume.SetUp failed for volume "lost"', True),
]
# It runs still, or never did; what its end will be called, once it is not there any more.
GOING = [
    ("being-deleted", True, Cause.DELETED),
    ("being-preempted", True, Cause.PREEMPTED),
    ("node-lost", True, Cause.NODE_LOST),
    ("deleted-before-it-ran", False, Cause.DELETED),
]


def recorded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    read = json.loads((DIRECTORY / f"{name}.json").read_text())
    return read["pod"], read["events"]


@pytest.mark.parametrize(("name", "cause", "exit_code"), ENDS)
def test_an_end_has_its_cause(name: str, cause: Cause, exit_code: int) -> None:
    found = classify(*recorded(name))
    assert isinstance(found, InstanceEnded)
    assert (found.end.cause, found.end.exit_code) == (cause, exit_code)
    assert found.end.message


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("evicted-for-memory", True),
        # Its kubelet had not measured it: that it had more than it asked for is not said.
        ("evicted-for-memory-at-once", False),
        ("evicted-for-disk", False),
        ("oom-killed", True),
        ("exit-77", True),
        ("oom-of-a-child", False),
    ],
)
def test_an_end_says_whether_more_memory_helps(name: str, is_so: bool) -> None:
    assert end_of(*recorded(name)).is_out_of_memory == is_so


def test_a_container_that_could_not_be_started_says_why() -> None:
    end = end_of(*recorded("command-not-found"))
    assert end.is_crash
    assert not end.is_refused
    assert "no such file or directory" in end.describe()


@pytest.mark.parametrize(("name", "why", "is_error"), WAITS)
def test_who_waits_says_why(name: str, why: str, is_error: bool) -> None:
    found = classify(*recorded(name))
    assert isinstance(found, InstanceWaits)
    assert found.why.startswith(why)
    assert found.is_error == is_error


@pytest.mark.parametrize(("name", "runs", "cause"), GOING)
def test_who_is_deleted_runs_on_and_then_has_its_cause(name: str, runs: bool, cause: Cause) -> None:
    pod, events = recorded(name)
    assert isinstance(classify(pod, events), InstanceStarted) == runs
    assert end_of(pod, events).cause is cause


def test_who_runs_says_on_which_node() -> None:
    found = classify(*recorded("running"))
    assert isinstance(found, InstanceStarted)
    assert found.where in ("node-0", "node-1")


def test_of_a_lost_node_it_is_told_without_a_uid() -> None:
    pod, events = recorded("node-lost")
    [told] = [event for event in events if event["reason"] == "TaintManagerEviction"]
    assert "uid" not in told["involvedObject"]
    assert is_event_of(told, pod)


def test_every_recorded_pod_is_looked_at() -> None:
    names = [name for name, *_ in (*ENDS, *WAITS, *GOING)] + ["running"]
    assert sorted(names) == sorted(path.stem for path in DIRECTORY.glob("*.json"))
