"""What is told of a job, whoever is asked: its master, or its directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.dashboard.events import JobEvent
from elasticdl.dashboard.health import find_health, free_bytes
from elasticdl.dashboard.tasks import MOST_RUNS, describe_tasks, runs_of
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.journal import FILE_NAME
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership_events import Registered
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.dashboard.schema import checked
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import Masters

PLAN = JobPlan(
    phases=(TaskKind.TRAINING,), shards=(Shard("a", 40),), records_per_task=10, num_epochs=2
)


@pytest.fixture
def masters(tmp_path):
    spec = JobSpec(command="train", job_name="mine", job_dir=str(tmp_path), model_def="a.B")
    spec = spec.model_copy(update={"model_zoo": "zoo", "data": "data", "output": "output"})
    spec.save(tmp_path)
    masters = Masters(tmp_path, PLAN)
    masters.next()
    yield masters
    masters.kill()


def test_a_job_that_begins_elsewhere_is_not_lost_for_want_of_a_journal(tmp_path):
    JobSpec(command="train", model_def="a.B", model_zoo="z", data="d", output="o").save(tmp_path)
    begins = checked("state", DirectorySource(tmp_path, is_running=True).state())
    assert (begins["state"], begins["phase"]) == ("running", "initialize")
    assert begins["health"] == []
    assert DirectorySource(tmp_path).state()["state"] == "lost"


def test_a_directory_tells_the_whole_story(masters, tmp_path):
    first = masters.coordinator
    masters.backend.tell(InstanceStarted(PS, os.getpid()))
    first.register(Registered(PS, "here:1", 1))
    first.register(Registered(WORKER, "", 2))
    task = first.lease(WORKER, 0).task
    first.report(ledger_events.TaskCompleted(task.id, (1,), 1))
    first.lease(WORKER, 1)
    masters.backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    source = DirectorySource(tmp_path)
    state = checked("state", source.state())
    assert state["state"] == "running"
    assert state["phase"] == "training"
    assert state["progress"]["records_done"] == 10
    assert state["progress"]["records_expected"] == 80
    assert state["progress"]["epochs"][0]["records_done"] == 10
    assert state["tasks"]["strip"] == [["done", 1], ["todo", 3]]
    (server, worker) = state["instances"]
    assert (server["role"], server["state"], server["pid"]) == ("ps", "running", 1)
    assert server["age_s"] >= 0
    assert (worker["incarnation"], worker["relaunches"]) == (2, 1)
    assert worker["state"] == "launching"
    marks = [one["mark"] for one in source.events()["events"]]
    assert marks.count("join") == 2
    assert marks.count("death") == 1
    masters.next()
    marks = [one["mark"] for one in source.events()["events"]]
    assert marks.count("master") == 2
    masters.kill()
    state = source.state()
    assert state["state"] == "lost"
    assert state["health"][0]["level"] == "error"
    assert {one["state"] for one in state["instances"]} == {"gone"}
    (tmp_path / "result.json").write_text(
        json.dumps({"state": "failed", "error": "no more\nof it", "metrics": {"a": 1.5}})
    )
    state = source.state()
    assert (state["state"], state["metrics"]) == ("failed", {"a": 1.5})
    assert state["health"][0] == {"level": "error", "text": "no more"}
    assert checked("job", source.job())["options"]["model_def"] == "a.B"


def test_events_come_in_order_and_only_new_ones_and_as_many_as_asked_for(masters, tmp_path):
    source = DirectorySource(tmp_path)
    every = checked("events", source.events())
    numbers = [one["number"] for one in every["events"]]
    assert numbers == sorted(numbers)
    assert every["last"] == numbers[-1]
    assert source.events(after=numbers[0])["events"] == every["events"][1:]
    assert source.events(limit=2) == {"events": every["events"][:2], "last": numbers[1]}
    paged = [source.events(after=after, limit=1) for after in [0, *numbers[:-1]]]
    assert [one["last"] for one in paged] == numbers
    newest = source.events(limit=2, newest=True)
    assert newest == {"events": every["events"][-2:], "last": every["last"]}
    assert source.events(limit=0, newest=True) == {"events": [], "last": every["last"]}
    assert source.events(limit=0) == {"events": [], "last": 0}
    assert source.events(after=every["last"]) == {"events": [], "last": every["last"]}
    first = masters.coordinator
    first.register(Registered(PS, "here:1", 1))
    first.register(Registered(WORKER, "", 2))
    first.lease(WORKER, 0)
    assert not [one for one in source.events()["events"] if one["kind"] == "granted"]
    with_tasks = source.events(with_tasks=True)["events"]
    assert [one for one in with_tasks if one["kind"] == "granted"]


def test_a_directory_in_which_nothing_began_is_told_of(tmp_path):
    spec = {"model_zoo": "z", "model_def": "a.B", "data": "d", "output": "o"}
    JobSpec.model_validate({"command": "train", "job_dir": str(tmp_path), **spec}).save(tmp_path)
    source = DirectorySource(tmp_path)
    assert source.state()["state"] == "lost"
    checked("state", source.state())
    assert checked("history", source.history())["rows"] == []
    assert source.events() == {"events": [], "last": 0}
    assert source.log("worker", 0, None, 100)["tail"] == ""


def test_the_log_of_the_newest_life_is_told_with_its_first_error(masters, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "worker-0.1.log").write_text("old\n")
    (logs / "worker-0.2.log").write_text("Traceback (most recent call last):\nValueError: bad\n")
    source = DirectorySource(tmp_path)
    newest = source.log("worker", 0, None, 10_000)
    assert newest["path"].endswith("worker-0.2.log")
    assert "ValueError: bad" in newest["tail"]
    assert "Traceback" in newest["first_error"]
    old = source.log("worker", 0, 1, 10_000)
    assert "old" in old["tail"]
    assert old["first_error"] is None


def test_what_is_trained_again_after_a_loss_is_seen_in_the_strip():
    ledger = Ledger(PLAN)
    ledger.handle(ledger_events.PartitionStarted(0, 1, None), 0.0)
    for request in range(3):
        (grant,) = ledger.handle(ledger_events.LeaseRequested(0, 1, request), 0.0)[-1:]
        ledger.handle(ledger_events.TaskCompleted(grant.task.id, (1,), 1), 1.0)
    assert describe_tasks(ledger)["strip"] == [["done", 3], ["todo", 1]]
    ledger.handle(ledger_events.PartitionStarted(0, 2, ((0, 1),)), 2.0)
    assert describe_tasks(ledger)["strip"] == [["done", 1], ["replayed", 2], ["todo", 1]]
    grant = ledger.handle(ledger_events.LeaseRequested(0, 1, 9), 3.0)[-1]
    assert describe_tasks(ledger)["strip"][1] == ["leased", 1]
    ledger.handle(ledger_events.TaskCompleted(grant.task.id, (2,), 1), 4.0)
    found = describe_tasks(ledger)
    assert found["strip"] == [["done", 1], ["replayed", 2], ["todo", 1]]
    assert found["replayed"] == 1
    assert ledger.epochs[0].records_done == 30, "a record counts once"


def test_a_strip_is_short_however_many_tasks_there_are():
    states = np.tile(np.array([0, 2], np.int8), 50_000)
    states[77_777] = 3
    runs = runs_of(states)
    assert len(runs) <= MOST_RUNS
    assert sum(length for _, length in runs) == 100_000
    assert [state for state, _ in runs if state == "leased"], "what few tasks are is not lost"


WELL = {
    "at": 1000.0,
    "state": "running",
    "error": "",
    "imbalance": 1.1,
    "tasks": {"to_repeat": 0},
    "workers_wanted": 1,
    "ps_wanted": 1,
    "instances": [
        {"role": "ps", "index": 0, "state": "running", "heard_s": 0.5},
        {"role": "worker", "index": 0, "state": "running", "heard_s": 0.5},
    ],
}


@pytest.mark.parametrize(
    ("change", "stands_still_s", "level", "words"),
    [
        ({"imbalance": 2.0}, 0.0, "warning", "2.0 times the bytes"),
        ({"workers_wanted": 3}, 0.0, "warning", "1 of 3 workers running"),
        ({"tasks": {"to_repeat": 1}}, 0.0, "warning", "1 task is trained again after a loss"),
        ({"ps_wanted": 2}, 0.0, "warning", "1 of 2 parameter servers running"),
        ({}, 90.0, "warning", "no task was done for 90 s"),
        ({}, 400.0, "error", "no task was done for 400 s"),
        (
            {"instances": [*WELL["instances"][:1], {**WELL["instances"][1], "heard_s": 9.0}]},
            0.0,
            "warning",
            "worker 0 was not heard from for 9 s",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change, stands_still_s, level, words):
    assert find_health(WELL, [], 0.0, [str(tmp_path)]) == []
    (finding,) = find_health({**WELL, **change}, [], stands_still_s, [str(tmp_path)])
    assert finding["level"] == level
    assert words in finding["text"]


def test_of_a_range_of_workers_only_too_few_are_told(tmp_path: Path):
    state = {**WELL, "workers_wanted": 8}

    def found(min_workers: int) -> list[str]:
        return [one["text"] for one in find_health(state, [], 0.0, [str(tmp_path)], min_workers)]

    assert found(1) == []
    assert found(2) == ["1 of 8 workers running; 2 is the least"]


def test_a_parameter_server_that_dies_again_and_again_is_said_first(masters, tmp_path):
    first = masters.coordinator
    for incarnation in range(1, 4):
        spec = InstanceSpec(Role.PS, 0, incarnation)
        first.register(Registered(spec, "here:1", 1))
        masters.backend.tell(InstanceEnded(spec, End.of_exit_code(-9)))
    health = DirectorySource(tmp_path).state()["health"]
    assert health[0]["level"] == "error"
    assert (
        "parameter server 0 died 3 times in 10 minutes, last: killed by SIGKILL"
        in (health[0]["text"])
    )


@pytest.mark.parametrize(("seconds_ago", "is_told"), [(20.0, True), (300.0, False)])
def test_a_task_that_was_leased_twice_is_told_while_it_matters(tmp_path, seconds_ago, is_told):
    body = {"task": 306, "worker": 1}
    body["straggler"] = {"worker": 2, "held_s": 2.7, "usual_s": 1.3}
    leased = JobEvent(9, WELL["at"] - seconds_ago, "granted", "task 306 is leased", body)
    text = "task 306 is leased to worker 1 as well"
    for state, is_told_then in ((WELL, is_told), ({**WELL, "state": "succeeded"}, False)):
        found = [one["text"] for one in find_health(state, [leased], 0.0, [str(tmp_path)])]
        assert any(text in one for one in found) == is_told_then


def test_what_cannot_be_told_of_health_is_said_and_the_rest_is_told(tmp_path):
    cannot_be_asked = str(tmp_path / ("long" * 100) / "checkpoints")
    assert free_bytes([cannot_be_asked, str(tmp_path / "to" / "come"), "s3://b/c"]).keys() == {
        str(tmp_path / "to" / "come")
    }
    failed = JobEvent(7, 990.0, "checkpoint_failed", "", {"number": 3, "reason": ""})
    state = {**WELL, "workers_wanted": 3}
    texts = [one["text"] for one in find_health(state, [failed], 0.0, [cannot_be_asked])]
    assert texts[0] == "1 checkpoint in a row failed, last: no reason is given"
    assert "1 of 3 workers running" in texts
    assert f"{cannot_be_asked}: how much is free cannot be told: File name too long" in texts
    without_reason = JobEvent(7, 990.0, "checkpoint_failed", "", {"number": 3})
    texts = [one["text"] for one in find_health(state, [without_reason], 0.0, [str(tmp_path)])]
    assert "1 of 3 workers running" in texts
    assert any(one.startswith("its checkpoints cannot be looked at (KeyError") for one in texts)


def test_a_checkpoint_that_was_begun_again_is_no_failure(masters, tmp_path):
    first = masters.coordinator
    first.checkpoint_failed(2, "a parameter server was lost meanwhile", is_loud=False)
    source = DirectorySource(tmp_path)
    assert [one for one in source.state()["health"] if "checkpoint" in one["text"]] == []
    assert source.events()["events"][-1]["text"] == (
        "checkpoint 2 is given up: a parameter server was lost meanwhile"
    )
    first.checkpoint_failed(3, "disk full")
    texts = [one["text"] for one in source.state()["health"]]
    assert "1 checkpoint in a row failed, last: disk full" in texts


def test_a_journal_that_cannot_be_read_is_said_first_and_the_rest_is_told(masters, tmp_path):
    masters.kill()
    source = DirectorySource(tmp_path)
    known = source.state()
    assert not [one for one in known["health"] if "journal" in one["text"]]
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(b"no database " * 1000)
    state = checked("state", source.state())
    assert state["instances"] == known["instances"], "what was read before is not lost"
    (tmp_path / "result.json").write_text(json.dumps({"state": "failed", "error": "no more"}))
    for one in (source, DirectorySource(tmp_path)):
        state = checked("state", one.state())
        assert state["state"] == "failed"
        assert state["health"][0]["level"] == "error"
        assert str(path) in state["health"][0]["text"]
        assert "file is not a database" in state["health"][0]["text"]
    path.write_bytes(whole)
    assert not [one for one in source.state()["health"] if "journal" in one["text"]]
