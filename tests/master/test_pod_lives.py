"""What a cluster tells of instances, and what comes of it: each row of the design's table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from elasticdl.job_spec import JobSpec
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Needs, Role, State
from elasticdl.master.membership import Membership
from elasticdl.master.membership_events import (
    Action,
    Adopt,
    Ended,
    GiveUp,
    Heard,
    Launch,
    PartitionLost,
    Progressed,
    Registered,
    RollBack,
    Scaled,
    Started,
    Stop,
    Tick,
    Waiting,
    WorkerGone,
)
from elasticdl.master.replacement import MOST_RAISES, Memory
from elasticdl.master.wanted import growth_of

OUT_OF_MEMORY = End(Cause.OUT_OF_MEMORY, -9)
DELETED = End(Cause.DELETED)
DAYS = 1e6


def ps(index: int, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.PS, index, incarnation)


def worker(index: int, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.WORKER, index, incarnation)


def asked_for(num_workers: int = 2, num_ps: int = 1, **options) -> Membership:
    membership = Membership(num_workers, num_ps, waits_for_room=True, **options)
    membership.start(0.0)
    return membership


def running(num_workers: int = 2, num_ps: int = 1, **options) -> Membership:
    membership = asked_for(num_workers, num_ps, **options)
    for one in membership.instances():
        begin(membership, one.spec)
    return membership


def begin(membership: Membership, spec: InstanceSpec, now: float = 1.0) -> None:
    membership.handle(Started(spec, "a-node"), now)
    membership.handle(Registered(spec, "here:1", 1), now)


def launches(actions: Sequence[Action]) -> list[Launch]:
    return [one for one in actions if isinstance(one, Launch)]


def given_up(actions: Sequence[Action]) -> list[str]:
    return [one.message for one in actions if isinstance(one, GiveUp)]


def state_of(membership: Membership, spec: InstanceSpec) -> State:
    return next(one.state for one in membership.instances() if one.spec == spec)


# ---------------------------------------------------------------------- who waits


def test_who_waits_for_room_waits_for_days():
    membership = asked_for(start_s=10.0, silence_s=10.0)
    for spec in (ps(0), worker(0)):
        membership.handle(Waiting(spec, "Unschedulable: no node has room", for_room=True), 1.0)
        assert state_of(membership, spec) is State.WAITING
    assert membership.handle(Tick(), DAYS) == [], "and of who is not told at all, too"


def test_the_clock_of_who_has_to_register_begins_when_it_begins_to_run():
    membership = asked_for(start_s=10.0)
    membership.handle(Waiting(worker(0), "ContainerCreating"), 1.0)
    membership.handle(Started(worker(0), "a-node"), 500.0)
    assert state_of(membership, worker(0)) is State.LAUNCHING
    assert membership.handle(Tick(), 510.0) == []
    actions = membership.handle(Tick(), 510.1)
    assert actions[:2] == [Stop(worker(0), 0), WorkerGone(worker(0), "not heard from for 10 s")]
    assert launches(actions) == [Launch(worker(0, 2))]


def test_a_pod_that_runs_does_not_wait_again():
    membership = running()
    membership.handle(Waiting(worker(0), "late news"), 2.0)
    assert state_of(membership, worker(0)) is State.RUNNING
    begun = asked_for()
    begun.handle(Started(worker(0)), 1.0)
    begun.handle(Waiting(worker(0), "late news", is_error=True), 2.0)
    assert state_of(begun, worker(0)) is State.LAUNCHING


def test_what_only_somebody_can_mend_fails_the_job_once_nobody_has_worked_for_long():
    membership = asked_for(start_deadline_s=120.0)
    membership.handle(Waiting(worker(0), "ErrImagePull: no such image", is_error=True), 10.0)
    membership.handle(Waiting(worker(0), "ImagePullBackOff: no such image", is_error=True), 99.0)
    assert membership.handle(Tick(), 130.0) == []
    (message,) = given_up(membership.handle(Tick(), 130.1))
    assert message == "worker 0 could not start for 120 s: ImagePullBackOff: no such image"


@pytest.mark.parametrize(
    "event",
    [
        Waiting(worker(0), "ContainerCreating"),
        Started(worker(0)),
        Progressed(),
        Ended(worker(0), DELETED),
    ],
)
def test_what_was_mended_fails_no_job(event):
    membership = asked_for(start_deadline_s=120.0)
    membership.handle(Waiting(worker(0), "ErrImagePull", is_error=True), 10.0)
    membership.handle(event, 100.0)
    assert given_up(membership.handle(Tick(), 131.0)) == []


def test_a_registry_that_is_away_ends_no_job_whose_other_workers_go_on():
    membership = running(num_workers=3, silence_s=DAYS, start_deadline_s=120.0)
    membership.handle(Ended(worker(0), DELETED), 2.0)
    membership.handle(Waiting(worker(0, 2), "ErrImagePull", is_error=True), 3.0)
    assert membership.handle(Tick(), 1000.0) == []
    membership.handle(Ended(ps(0), DELETED), 1000.0)
    assert given_up(membership.handle(Tick(), 1000.0)), "but nobody works without the partition"


def test_few_workers_wait_for_room_at_a_time():
    membership = Membership(40, 1, waits_for_room=True)
    first = launches(membership.start(0.0))
    assert [one.spec for one in first] == [ps(0), *(worker(i) for i in range(10))]
    assert membership.handle(Tick(), 1.0) == []
    membership.handle(Waiting(worker(0), "Unschedulable", for_room=True), 1.0)
    assert membership.handle(Tick(), 2.0) == []
    membership.handle(Waiting(worker(1), "ContainerCreating"), 2.0)
    membership.handle(Started(worker(2)), 2.0)
    assert membership.handle(Tick(), 3.0) == [Launch(worker(10)), Launch(worker(11))]
    lost = Ended(worker(2), End(Cause.PREEMPTED))
    assert launches(membership.handle(lost, 4.0)) == [], "it comes when there is room"
    membership.handle(Started(worker(5)), 5.0)
    assert membership.handle(Tick(), 5.0) == [Launch(worker(2, 2))]


def test_all_workers_come_at_last_if_there_is_room():
    membership = Membership(40, 1, waits_for_room=True)
    asked = launches(membership.start(0.0))
    while asked:
        for one in asked:
            begin(membership, one.spec)
        asked = launches(membership.handle(Tick(), 2.0))
    assert [one.state for one in membership.instances()] == [State.RUNNING] * 41


def test_who_waits_and_is_not_wanted_any_more_is_stopped():
    membership = asked_for(num_workers=3)
    membership.handle(Waiting(worker(2), "Unschedulable", for_room=True), 1.0)
    assert membership.handle(Scaled(2), 2.0) == [Stop(worker(2), 15.0)]
    assert membership.handle(Ended(worker(2), DELETED), 3.0)[0].spec == worker(2)
    assert launches(membership.handle(Tick(), 9.0)) == []


# ------------------------------------------------------------------ room for partitions


def test_a_partition_that_waits_for_room_gets_that_of_the_youngest_worker_and_then_of_others():
    membership = running(num_workers=3, silence_s=DAYS)
    membership.handle(Ended(worker(1), DELETED), 2.0)
    begin(membership, worker(1, 2), 3.0)
    membership.handle(Ended(ps(0), DELETED), 4.0)
    for at in (5.0, 9.0):
        membership.handle(Waiting(ps(0, 2), "Unschedulable: no room", for_room=True), at)
    assert membership.handle(Tick(), 14.9) == []
    assert membership.handle(Tick(), 15.0) == [Stop(worker(1, 2), 15.0)]
    assert state_of(membership, worker(1, 2)) is State.STOPPING
    assert membership.handle(Tick(), 30.0) == [], "it is still there"
    gone = membership.handle(Ended(worker(1, 2), DELETED), 30.1)
    assert gone == [WorkerGone(worker(1, 2), "stopped, as a parameter server needed its room")]
    assert membership.handle(Tick(), 59.9) == [], "nobody is asked for who would take it"
    assert membership.handle(Tick(), 60.0) == [Stop(worker(2), 15.0)]
    begin(membership, ps(0, 2), 61.0)
    actions = membership.handle(Tick(), 61.0)
    assert launches(actions) == [Launch(worker(1, 3))]


def test_workers_that_wait_for_room_do_not_take_what_a_partition_is_given():
    membership = running(num_workers=2, silence_s=DAYS)
    membership.handle(Ended(worker(0), DELETED), 2.0)
    for spec in (worker(0, 2), ps(0, 2)):
        if spec.role is Role.PS:
            membership.handle(Ended(ps(0), DELETED), 2.0)
        membership.handle(Waiting(spec, "Unschedulable: no room", for_room=True), 3.0)
    assert membership.handle(Tick(), 13.0) == [Stop(worker(0, 2), 0), Stop(worker(1), 15.0)]


def test_only_those_give_room_whose_class_is_that_of_partitions():
    membership = running(num_workers=2, silence_s=DAYS, gives_room=lambda index: index == 0)
    membership.handle(Ended(ps(0), DELETED), 2.0)
    membership.handle(Waiting(ps(0, 2), "Unschedulable: no room", for_room=True), 3.0)
    assert membership.handle(Tick(), 13.0) == [Stop(worker(0), 15.0)]
    assert membership.handle(Tick(), 100.0) == []


def test_a_partition_that_waits_for_an_image_takes_nobodys_room():
    membership = running(silence_s=DAYS)
    membership.handle(Ended(ps(0), DELETED), 2.0)
    membership.handle(Waiting(ps(0, 2), "Unschedulable: no room", for_room=True), 3.0)
    membership.handle(Waiting(ps(0, 2), "ContainerCreating"), 4.0)
    assert membership.handle(Tick(), 100.0) == []


# ----------------------------------------------------------------- who ran out of memory


def test_who_ran_out_of_memory_is_launched_with_more_and_so_is_its_role_from_then_on():
    membership = running()
    actions = membership.handle(Ended(worker(0), OUT_OF_MEMORY), 2.0)
    (again,) = launches(actions)
    assert (again.spec, again.needs) == (worker(0, 2), Needs(1.5))
    assert again.memory == "1.5 times its memory"
    assert actions[0] == WorkerGone(worker(0), "out of memory")
    (other,) = launches(membership.handle(Ended(worker(1), End(Cause.PREEMPTED)), 3.0))
    assert (other.spec, other.needs) == (worker(1, 2), Needs(1.5))
    (server,) = launches(membership.handle(Ended(ps(0), DELETED), 3.0))
    assert server.needs == Needs(), "its role had enough"


def test_eight_that_run_out_together_raise_it_once_and_count_once():
    membership = running(num_workers=8)
    for index in range(8):
        actions = membership.handle(Ended(worker(index), OUT_OF_MEMORY), 2.0)
        assert [one.needs for one in launches(actions)] in ([], [Needs(1.5)])
        assert given_up(actions) == []
    again = launches(membership.handle(Tick(), 2.0))
    assert not again or {one.needs for one in again} == {Needs(1.5)}


def test_five_raises_in_a_row_fail_the_job_with_the_memory_that_was_not_enough():
    membership = running()
    for times in range(1, MOST_RAISES):
        actions = membership.handle(Ended(worker(0, times), OUT_OF_MEMORY), float(times))
        assert launches(actions)[0].needs == Needs(1.5**times)
        begin(membership, worker(0, times + 1), float(times))
    last = Ended(worker(0, MOST_RAISES), OUT_OF_MEMORY)
    (message,) = given_up(membership.handle(last, 9.0))
    assert "workers ran out of memory 5 times in a row" in message
    assert "worker 0 last, with 5.06 times its memory" in message


def test_a_task_done_between_raises_forgives_them():
    membership = running(memory=Memory(factor=1.1))
    for times in range(1, 20):
        actions = membership.handle(Ended(worker(0, times), OUT_OF_MEMORY), float(times))
        assert given_up(actions) == []
        begin(membership, worker(0, times + 1), float(times))
        membership.handle(Progressed(), float(times))


def test_beyond_the_most_memory_the_job_fails_and_says_what_it_had():
    spec = JobSpec(command="train", job_dir="here", memory_limit_max="5Gi")
    assert spec.worker_resource_request.endswith("memory=4Gi")
    membership = running(memory=growth_of(spec))
    (again,) = launches(membership.handle(Ended(worker(0), OUT_OF_MEMORY), 2.0))
    assert (again.needs, again.memory) == (Needs(1.25), "5120Mi"), "as much as there may be"
    begin(membership, worker(0, 2), 2.0)
    (message,) = given_up(membership.handle(Ended(worker(0, 2), OUT_OF_MEMORY), 3.0))
    assert "worker 0 ran out of memory with 5120Mi" in message
    assert "--memory_limit_max" in message


@pytest.mark.parametrize(
    "said",
    [
        "The node was low on resource: memory. Container main was using 9Gi, which exceeds its "
        "request of 4Gi. ",
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 9Mi. "
        "Container main was using 9Gi, request is 4Gi, has larger consumption of memory. ",
    ],
)
def test_who_was_evicted_for_more_memory_than_asked_for_asks_for_more(said):
    membership = running()
    evicted = Ended(worker(0), End(Cause.EVICTED, message=said))
    (again,) = launches(membership.handle(evicted, 2.0))
    assert again.needs == Needs(1.5)
    disk = End(Cause.EVICTED, message="The node was low on resource: ephemeral-storage.")
    (other,) = launches(membership.handle(Ended(ps(0), disk), 2.0))
    assert other.needs == Needs()


# ------------------------------------------------------------------------- ends


@pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.EVICTED, Cause.NODE_LOST, Cause.DELETED])
@pytest.mark.parametrize("exit_code", [0, 1, -9, -11])
def test_what_the_cluster_does_is_no_crash_however_often(cause, exit_code):
    membership = running(most_crashes=2)
    for incarnation in range(1, 30):
        lost = Ended(worker(0, incarnation), End(cause, exit_code, "so it was"))
        actions = membership.handle(lost, 5.0)
        assert actions == [
            WorkerGone(worker(0, incarnation), f"{cause}: so it was"),
            Launch(worker(0, incarnation + 1)),
        ]
        begin(membership, worker(0, incarnation + 1), 5.0)


def test_a_container_that_crashed_is_launched_ever_more_slowly_and_then_fails_the_job():
    membership = running(most_crashes=2)
    assert launches(membership.handle(Ended(worker(0), End(Cause.EXITED, 1)), 2.0)) == []
    assert launches(membership.handle(Tick(), 3.0)) == [Launch(worker(0, 2))]
    begin(membership, worker(0, 2), 3.0)
    crash = End(Cause.KILLED, -11, log_tail="; the end of its log:\nboom")
    actions = membership.handle(Ended(worker(0, 2), crash), 4.0)
    assert actions[-1].log_tail == "; the end of its log:\nboom"
    assert "killed by SIGSEGV" in given_up(actions)[0]


def test_what_the_apiserver_refuses_fails_the_job_with_its_words():
    membership = asked_for()
    refused = Ended(worker(0), End(Cause.NOT_STARTED, message="pods is forbidden"))
    (message,) = given_up(membership.handle(refused, 2.0))
    assert message == "worker 0 cannot be launched: pods is forbidden"


def test_a_container_that_nobody_can_start_counts_as_a_crash():
    membership = asked_for(most_crashes=2)
    end = End(Cause.NOT_STARTED, 128, "StartError: exec: no such file")
    assert launches(membership.handle(Ended(worker(0), end), 2.0)) == []
    assert launches(membership.handle(Tick(), 3.0)) == [Launch(worker(0, 2))]
    (message,) = given_up(membership.handle(Ended(worker(0, 2), end), 4.0))
    assert message.endswith("worker 0 last: not started: StartError: exec: no such file")


@pytest.mark.parametrize("cause", [Cause.EVICTED, Cause.DELETED, Cause.OUT_OF_MEMORY])
@pytest.mark.parametrize("role", [Role.PS, Role.WORKER])
def test_who_ends_again_and_again_before_it_is_ready_comes_ever_more_slowly(cause, role):
    membership = asked_for(memory=Memory(factor=1.0001))
    now, pauses, spec = 1.0, [], InstanceSpec(role, 0, 1)
    for incarnation in range(1, 11):
        membership.handle(Started(spec), now)
        membership.handle(Progressed(), now)
        began = now
        again = launches(membership.handle(Ended(spec, End(cause)), now))
        while not again:
            now += 0.25
            again = launches(membership.handle(Tick(), now))
        spec = InstanceSpec(role, 0, incarnation + 1)
        assert [one.spec for one in again] == [spec]
        pauses.append(now - began)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    begin(membership, spec, now)
    assert launches(membership.handle(Ended(spec, DELETED), now)), "it was ready: at once again"


def test_in_sync_mode_all_partitions_begin_again_with_one_that_was_deleted():
    membership = running(num_ps=2, restart_together=True)
    actions = membership.handle(Ended(ps(0), DELETED), 2.0)
    assert [type(one) for one in actions] == [
        PartitionLost,
        Stop,
        PartitionLost,
        RollBack,
        Launch,
        Launch,
    ]


# --------------------------------------------------------------------- another master


@pytest.mark.parametrize("how_far", ["asked for", "runs", "asks what to restore", "is up"])
def test_whatever_a_former_master_launched_is_adopted_and_never_launched_again(how_far):
    membership = Membership(1, 1, waits_for_room=True)
    membership.was_launched(ps(0), 0.0)
    membership.was_launched(worker(0), 0.0, Needs(2.25))
    if how_far != "asked for":
        membership.handle(Started(ps(0)), 0.0)
    if how_far in ("asks what to restore", "is up"):
        membership.handle(Registered(ps(0), "here:1", 1, ready=how_far == "is up"), 0.0)
    assert membership.go_on(100.0) == [Adopt((ps(0), worker(0)))]
    actions = membership.handle(Ended(ps(0), DELETED), 101.0)
    assert actions == [PartitionLost(ps(0), "deleted"), Launch(ps(0, 2))]
    (other,) = launches(membership.handle(Ended(worker(0), DELETED), 101.0))
    assert other == Launch(worker(0, 2), Needs(2.25)), "what was learned of memory is kept"


def test_who_is_not_wanted_any_more_is_adopted_too_so_that_its_end_is_seen():
    membership = Membership(1, 1, waits_for_room=True)
    for spec in (ps(0), worker(0), worker(1)):
        membership.was_launched(spec, 0.0)
    adopted, stopped = membership.go_on(1.0)
    assert adopted == Adopt((ps(0), worker(0), worker(1)))
    assert stopped == Stop(worker(1), 15.0)
    membership.handle(Ended(worker(1), DELETED), 2.0)
    assert launches(membership.handle(Scaled(2), 3.0)) == [Launch(worker(1, 2))]


def test_who_was_away_with_the_master_is_given_time_to_be_heard_again():
    membership = Membership(1, 1, silence_s=10.0)
    for spec in (ps(0), worker(0)):
        membership.was_launched(spec, 0.0)
        membership.handle(Started(spec), 0.0)
        membership.handle(Registered(spec, "here:1", 1), 0.0)
    membership.go_on(100.0)
    assert membership.handle(Tick(), 110.0) == []
    membership.handle(Heard(ps(0)), 110.0)
    assert launches(membership.handle(Tick(), 111.0)) == [Launch(worker(0, 2))]
