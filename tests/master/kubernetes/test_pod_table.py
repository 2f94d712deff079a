"""Lists and watches of pods make each start and each end once, whatever of them is lost."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.names import instance_of
from elasticdl.master.cluster.kubernetes.pod_state import Json
from elasticdl.master.cluster.kubernetes.pod_table import PodEvent, PodTable
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec
from tests.master.kubernetes.jobs import server, worker
from tests.master.kubernetes.pods import (
    Pod,
    deleted,
    event,
    pod,
    running,
    terminated,
    unscheduled,
    waiting,
)

WHO = worker()


def change(kind: str, made: Pod) -> Json:
    return {"type": kind, "object": made}


def launched(*specs: InstanceSpec, now: float = 0.0) -> PodTable:
    table = PodTable()
    for spec in specs:
        table.launching(spec)
        table.expect(spec, now)
    return table


def test_a_pod_is_told_from_its_wait_to_its_end() -> None:
    table = launched(WHO)
    assert table.changed(change("ADDED", pod(WHO))) == []
    assert table.changed(change("MODIFIED", unscheduled(WHO))) == [
        InstanceWaits(WHO, "Unschedulable: 0/2 nodes are available", False, for_room=True)
    ]
    assert table.listed([unscheduled(WHO)], 1.0) == []
    assert table.changed(change("MODIFIED", running(WHO))) == [InstanceStarted(WHO, 0, "node-a")]
    assert table.changed(change("MODIFIED", running(WHO))) == []
    (told,) = table.changed(change("MODIFIED", terminated(WHO, 1)))
    assert told == InstanceEnded(WHO, End(Cause.EXITED, 1, "Error"))
    assert table.changed(change("DELETED", terminated(WHO, 1))) == []
    assert table.listed([], 2.0) == []


def test_why_it_waits_is_told_again_when_it_is_another_reason() -> None:
    table = launched(WHO)
    assert len(table.changed(change("ADDED", unscheduled(WHO)))) == 1
    (told,) = table.changed(change("MODIFIED", waiting(WHO, "ErrImagePull")))
    assert told == InstanceWaits(WHO, "ErrImagePull", True)


def test_a_deletion_that_a_watch_tells_waits_for_no_list() -> None:
    table = launched(WHO)
    table.changed(change("ADDED", running(WHO)))
    (told,) = table.changed(change("DELETED", deleted(terminated(WHO, 143))))
    assert told == InstanceEnded(WHO, End(Cause.DELETED, -15, "its pod was deleted"))


def test_who_has_started_does_not_wait_again() -> None:
    table = launched(WHO)
    table.changed(change("ADDED", running(WHO)))
    assert table.changed(change("MODIFIED", unscheduled(WHO))) == []
    assert table.changed(change("MODIFIED", running(WHO))) == []


def test_what_was_launched_and_is_in_no_list_has_ended() -> None:
    table = launched(WHO, now=5.0)
    (told,) = table.listed([], 5.1)
    assert isinstance(told, InstanceEnded)
    assert told.end.cause is Cause.DELETED
    assert table.listed([], 6.0) == []
    assert table.changed(change("ADDED", running(WHO))) == []


def test_what_was_heard_in_place_of_an_answer_is_why_it_is_not_there() -> None:
    """Such as of an admission webhook that fails whatever is created."""
    table = PodTable()
    table.launching(WHO)
    table.expect(WHO, 5.0, "failed calling webhook")
    (told,) = table.listed([], 5.1)
    end = End(Cause.DELETED, message="its pod is not there: failed calling webhook")
    assert told == InstanceEnded(WHO, end)


def test_a_list_from_before_the_answer_says_nothing() -> None:
    table = launched(WHO, now=5.0)
    assert table.listed([], 5.0) == []
    table = PodTable()
    table.launching(WHO)
    assert table.listed([], 9.0) == []


def test_what_a_former_master_launched_is_adopted_or_gone() -> None:
    table = PodTable()
    table.adopt([worker(0), worker(1), server(0)])
    told = table.listed([running(worker(0)), terminated(server(0), 139)], 0.0)
    assert told == [
        InstanceStarted(worker(0), 0, "node-a"),
        InstanceEnded(worker(1), End(Cause.DELETED, message="its pod is not there")),
        InstanceEnded(server(0), End(Cause.KILLED, -11, "Error")),
    ]


def test_a_pod_of_nobody_strays_unless_it_is_being_launched_or_has_ended() -> None:
    table = launched(WHO)
    others = [running(worker(1, 2)), terminated(worker(2), 0)]
    table.launching(worker(3))
    assert table.listed([running(WHO), running(worker(3)), *others], 1.0)
    assert table.strays() == ["mnist-1-worker-1-2"]
    table.listed([running(WHO)], 2.0)
    assert table.strays() == []


def test_a_pod_that_was_launched_meanwhile_strays_no_more() -> None:
    table = PodTable()
    table.listed([running(WHO)], 1.0)
    table.launching(WHO)
    assert table.strays() == []


def test_a_pod_that_comes_when_it_was_told_that_it_never_will_strays() -> None:
    table = launched(WHO, now=5.0)
    assert table.listed([], 5.1)
    assert table.listed([running(WHO)], 6.0) == []
    assert table.strays() == [running(WHO)["metadata"]["name"]]
    # Who was seen may be ending still: it is known to be over, and no stray.
    table = launched(WHO)
    table.listed([running(WHO)], 1.0)
    assert table.changed(change("DELETED", running(WHO)))
    table.listed([running(WHO)], 2.0)
    assert table.strays() == []


def test_another_pod_in_its_place_is_not_it() -> None:
    table = launched(WHO)
    table.listed([running(WHO)], 1.0)
    other = running(WHO)
    other["metadata"]["uid"] = "another"
    (told,) = table.listed([other], 2.0)
    assert isinstance(told, InstanceEnded)
    assert table.listed([other], 3.0) == []
    assert table.strays() == [other["metadata"]["name"]]


def test_what_is_deleted_and_does_not_go_is_on_a_lost_node() -> None:
    table = launched(WHO)
    table.listed([running(WHO)], 1.0)
    going = deleted(running(WHO), grace_s=30)
    assert table.changed(change("MODIFIED", going)) == []
    assert table.listed([going], 100.0) == []
    assert table.listed([going], 160.0) == []
    (told,) = table.listed([going], 160.1)
    assert isinstance(told, InstanceEnded)
    assert told.end.cause is Cause.NODE_LOST
    assert table.listed([going], 161.0) == []


def test_events_are_asked_for_where_they_say_why() -> None:
    asked = []

    def events_of(made: Json) -> Sequence[Json]:
        asked.append(made["metadata"]["name"])
        return [event("Preempted", "by a service")]

    table = PodTable(events_of)
    table.expect(WHO, 0.0)
    table.listed([running(WHO)], 1.0)
    assert asked == []
    (told,) = table.listed([], 2.0)
    assert told == InstanceEnded(WHO, End(Cause.PREEMPTED, 0, "by a service"))
    assert asked == ["mnist-1-worker-0-1"]


def life_of(spec: InstanceSpec, chance: random.Random) -> list[Pod]:
    """The states of a pod in order, from its creation to its deletion; any may be its last."""
    life = [pod(spec)]
    if chance.random() < 0.4:
        life.append(unscheduled(spec))
    if chance.random() < 0.4:
        life.append(waiting(spec, chance.choice(["ContainerCreating", "ErrImagePull"])))
    life.append(running(spec))
    if chance.random() < 0.5:
        life.append(deleted(running(spec)))
    if chance.random() < 0.7:
        life.append(terminated(spec, chance.choice([0, 1, 137, 143])))
    return life[: chance.randint(1, len(life))]


@pytest.mark.parametrize("seed", range(300))
def test_any_schedule_tells_each_start_and_each_end_once(seed: int) -> None:
    chance = random.Random(seed)
    specs = [worker(index) for index in range(3)] + [server(index) for index in range(2)]
    to_come = {spec: life_of(spec, chance) for spec in specs}
    ran = {spec for spec, life in to_come.items() if any(_runs(one) for one in life)}
    there: dict[InstanceSpec, Pod] = {}
    changes: list[Json] = []
    table, told, now = PodTable(), defaultdict[InstanceSpec, list[PodEvent]](list), 0.0
    seen_running = set()

    def tell(events: list[PodEvent]) -> None:
        for one in events:
            told[one.spec].append(one)

    def list_all() -> None:
        changes.clear()  # A watch begins where its list ends.
        seen_running.update(spec for spec, made in there.items() if _runs(made))
        tell(table.listed(there.values(), now))

    adopted = {spec for spec in specs if chance.random() < 0.3}
    for spec in adopted:  # Its life went on while there was no master.
        for _ in range(chance.randint(0, 2)):
            if to_come[spec]:
                there[spec] = to_come[spec].pop(0)
        if chance.random() < 0.3:
            there.pop(spec, None)
        if spec not in there:
            to_come[spec] = []
    table.adopt(adopted)
    list_all()
    waiting_to_launch = [spec for spec in specs if spec not in adopted]
    while waiting_to_launch or there:
        now += 1.0
        assert now < 10_000
        step = chance.random()
        if step < 0.2 and waiting_to_launch:
            spec = waiting_to_launch.pop()
            table.launching(spec)
            if chance.random() < 0.2:
                list_all()
            if chance.random() < 0.8:
                there[spec] = to_come[spec].pop(0)
                changes.append(change("ADDED", there[spec]))
            else:
                to_come[spec] = []  # The answer was lost, and nothing was created.
            now += 1.0
            table.expect(spec, now)
        elif step < 0.6 and there:
            spec = chance.choice(sorted(there, key=str))
            if to_come[spec]:
                there[spec] = to_come[spec].pop(0)
                changes.append(change("MODIFIED", there[spec]))
            else:
                changes.append(change("DELETED", there.pop(spec)))
        elif step < 0.8 and changes:
            one = changes.pop(0)
            for _ in range(chance.choice([0, 1, 1, 1, 2])):
                if _runs(one["object"]) and one["type"] != "DELETED":
                    seen_running.add(instance_of(one["object"]["metadata"]["labels"]))
                tell(table.changed(one))
        elif step < 0.9:
            list_all()
    now += 1.0
    list_all()
    for spec in specs:
        kinds = [type(one) for one in told[spec]]
        assert kinds.count(InstanceEnded) == 1, told[spec]
        assert kinds[-1] is InstanceEnded
        assert kinds.count(InstanceStarted) == (1 if spec in seen_running else 0)
        assert spec in ran or spec not in seen_running
        if InstanceStarted in kinds:
            assert InstanceWaits not in kinds[kinds.index(InstanceStarted) :]
        for before, after in zip(told[spec], told[spec][1:], strict=False):
            assert before != after
    assert table.strays() == []


def _runs(made: Json) -> bool:
    statuses = made["status"].get("containerStatuses") or ()
    return any(one["name"] == "elasticdl" and "running" in one["state"] for one in statuses)
