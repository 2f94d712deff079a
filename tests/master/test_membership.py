"""Who is launched, replaced, told to leave; and when the job is given up."""

from __future__ import annotations

import random
import signal

from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Role, State
from elasticdl.master.membership import MOST_POLLS_PER_S, Membership
from elasticdl.master.membership_events import (
    Ended,
    GiveUp,
    Heard,
    JobOver,
    Launch,
    PartitionLost,
    PartitionUp,
    Placed,
    Progressed,
    Registered,
    RollBack,
    Scaled,
    Stop,
    Tick,
    WorkerGone,
)
from tests.master.work import instructions_of


def started(num_workers: int = 2, num_ps: int = 1, **options) -> Membership:
    membership = Membership(num_workers, num_ps, **options)
    launches = membership.start(0.0)
    assert len(launches) == num_workers + num_ps
    for launch in launches:
        membership.handle(Registered(launch.spec, address="here:1", pid=1), 1.0)
    return membership


def worker(index: int, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.WORKER, index, incarnation)


PS = InstanceSpec(Role.PS, 0, 1)


def test_a_preempted_worker_is_replaced_at_once_however_often():
    membership = started()
    for incarnation in range(1, 40):
        actions = membership.handle(
            Ended(worker(1, incarnation), End.of_exit_code(-signal.SIGKILL)), 5.0
        )
        reason = "killed by SIGKILL"
        assert actions == [
            WorkerGone(worker(1, incarnation), reason),
            Launch(worker(1, incarnation + 1)),
        ]
        membership.handle(Registered(worker(1, incarnation + 1)), 5.0)
    assert membership.relaunches == 39


def test_crashes_in_a_row_are_retried_ever_more_slowly_and_then_given_up():
    membership = started(most_crashes=3)
    now, waits = 10.0, []
    for incarnation in (1, 2):
        actions = membership.handle(Ended(worker(0, incarnation), End.of_exit_code(1)), now)
        assert [type(a) for a in actions] == [WorkerGone]
        began = now
        while not (actions := membership.handle(Tick(), now)):
            now += 0.1
        assert actions == [Launch(worker(0, incarnation + 1))]
        waits.append(now - began)
    assert waits[1] > waits[0]
    *_, last = membership.handle(
        Ended(worker(0, 3), End(Cause.KILLED, -signal.SIGSEGV, log_tail="log")), now
    )
    assert isinstance(last, GiveUp)
    assert "killed by SIGSEGV" in last.message
    assert last.log_tail == "log"


def test_a_task_done_between_crashes_forgives_them():
    membership = started(most_crashes=2)
    for incarnation in range(1, 10):
        actions = membership.handle(Ended(worker(0, incarnation), End.of_exit_code(1)), 10.0)
        assert not any(isinstance(a, GiveUp) for a in actions)
        membership.handle(Progressed(), 10.0)
        assert Launch(worker(0, incarnation + 1)) in membership.handle(Tick(), 20.0)


def test_the_exit_of_an_old_incarnation_changes_nothing():
    membership = started()
    membership.handle(Ended(worker(0), End.of_exit_code(-signal.SIGKILL)), 1.0)
    assert membership.handle(Ended(worker(0), End.of_exit_code(-signal.SIGKILL)), 1.0) == []
    assert membership.handle(Registered(worker(0)), 1.0) == []
    assert not membership.is_current(worker(0))


def test_a_silent_worker_is_killed_and_replaced():
    membership = started(silence_s=30.0)
    membership.handle(Heard(worker(0)), 40.0)
    membership.handle(Heard(PS), 40.0)
    actions = membership.handle(Tick(), 45.0)
    assert [type(a) for a in actions] == [Stop, WorkerGone, Launch]
    assert actions[2].spec == worker(1, 2)


def ps(index: int, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.PS, index, incarnation)


def test_a_lost_partition_is_launched_again_at_once_and_is_up_when_it_has_restored():
    membership = started(num_ps=2)
    actions = membership.handle(Ended(ps(0), End.of_exit_code(-signal.SIGKILL)), 2.0)
    assert actions == [PartitionLost(ps(0), "killed by SIGKILL"), Launch(ps(0, 2))]
    assert membership.partitions() is None
    assert membership.handle(Registered(ps(0, 2), "c:1", ready=False), 3.0) == []
    assert membership.partitions() is None, "it has not restored yet"
    closed = ((0, 4), (6, 7))
    ready = Registered(ps(0, 2), "c:1", closed=closed)
    assert membership.handle(ready, 4.0) == [PartitionUp(ps(0, 2), "c:1", closed)]
    assert membership.handle(ready, 4.0) == []
    assert [one.address for one in membership.partitions()] == ["c:1", "here:1"]


def test_what_a_replaced_partition_still_says_changes_nothing():
    membership = started(num_ps=2)
    membership.handle(Ended(ps(0), End.of_exit_code(-signal.SIGKILL)), 2.0)
    assert not membership.is_current(ps(0)), "its heartbeats are refused"
    assert membership.handle(Registered(ps(0), "old:1"), 3.0) == []
    assert membership.handle(Ended(ps(0), End.of_exit_code(1)), 3.0) == []
    assert membership.partitions() is None


def test_a_silent_partition_is_killed_and_replaced_also_while_it_restores():
    membership = started(silence_s=30.0)
    for now in (40.0, 80.0):
        for index in (0, 1):
            membership.handle(Heard(worker(index)), now)
        next_one = ps(0, 1 + int(now / 40))
        actions = membership.handle(Tick(), now)
        assert [type(a) for a in actions] == [Stop, PartitionLost, Launch]
        assert actions[2].spec == next_one
        membership.handle(Registered(next_one, ready=False), now)


def test_a_partition_that_crashes_again_and_again_with_no_task_done_is_given_up():
    membership = started()
    for incarnation in range(1, 5):
        assert not gives_up(membership.handle(Ended(ps(0, incarnation), End.of_exit_code(1)), 10.0))
        assert Launch(ps(0, incarnation + 1)) in membership.handle(Tick(), 20.0)
    *_, last = membership.handle(Ended(ps(0, 5), End(Cause.EXITED, 1, log_tail="its.log")), 20.0)
    assert isinstance(last, GiveUp)
    assert "parameter servers crashed 5 times in a row" in last.message
    assert last.log_tail == "its.log"
    assert membership.handle(Tick(), 30.0) == [], "it is not launched again"


def test_partitions_at_one_version_are_all_launched_again_together():
    membership = started(num_ps=3, restart_together=True)
    actions = membership.handle(Ended(ps(1), End.of_exit_code(-signal.SIGKILL)), 2.0)
    assert [a for a in actions if isinstance(a, Stop)] == [Stop(ps(0), 0), Stop(ps(2), 0)]
    assert {a.spec for a in actions if isinstance(a, PartitionLost)} == {ps(0), ps(1), ps(2)}
    assert [a for a in actions if isinstance(a, Launch)] == [Launch(ps(i, 2)) for i in range(3)]
    assert actions.count(RollBack()) == 1
    assert actions.index(RollBack()) < actions.index(Launch(ps(0, 2)))


def test_before_all_of_them_were_up_nothing_is_trained_and_only_the_lost_one_begins_again():
    membership = started(num_ps=2, restart_together=True)
    membership.handle(Ended(ps(1), End.of_exit_code(-signal.SIGKILL)), 2.0)
    membership.handle(Registered(ps(0, 2)), 3.0)
    actions = membership.handle(Ended(ps(1, 2), End.of_exit_code(-signal.SIGKILL)), 4.0)
    assert actions == [PartitionLost(ps(1, 2), "killed by SIGKILL"), Launch(ps(1, 3))]
    membership.handle(Registered(ps(1, 3)), 5.0)
    assert RollBack() in membership.handle(Ended(ps(1, 3), End.of_exit_code(-signal.SIGKILL)), 6.0)


def test_the_clusters_version_grows_with_whatever_happens_to_a_partition():
    for seed in range(100):
        chance = random.Random(seed)
        membership = started(num_ps=3, most_crashes=10**9, restart_together=seed % 2 == 0)
        versions = [membership.cluster_version]
        for now in range(2, 40):
            spec = chance.choice(membership.instances()).spec
            kind = chance.randrange(3)
            before = [(one.spec, one.state) for one in membership.instances()]
            if kind == 0:
                membership.handle(
                    Ended(spec, End.of_exit_code(chance.choice([1, -signal.SIGKILL]))), now
                )
            elif kind == 1:
                membership.handle(Registered(spec, ready=chance.random() < 0.5), now)
            else:
                membership.handle(Tick(), now)
            after = [(one.spec, one.state) for one in membership.instances()]
            moved = [one for one in after if one[0].role is Role.PS and one not in before]
            assert (membership.cluster_version > versions[-1]) == bool(moved), f"seed {seed}"
            assert membership.cluster_version >= versions[-1], f"seed {seed}"
            versions.append(membership.cluster_version)


def test_partitions_that_are_placed_anew_have_incarnations_that_were_never_there():
    membership = started(num_ps=2)
    membership.handle(Ended(ps(1), End.of_exit_code(-signal.SIGKILL)), 2.0)
    membership.handle(Registered(ps(1, 2)), 2.0)
    version = membership.cluster_version
    actions = membership.handle(Placed(3), 3.0)
    assert actions == [
        *(Stop(ps(0, 1), 0), Stop(ps(1, 2), 0)),
        *(Launch(ps(0, 2)), Launch(ps(1, 3)), Launch(ps(2, 1))),
    ]
    assert membership.cluster_version > version
    assert membership.handle(Ended(ps(0, 1), End.of_exit_code(-signal.SIGKILL)), 3.0) == [], (
        "that was asked for"
    )
    for spec in (ps(0, 2), ps(1, 3), ps(2, 1)):
        assert membership.partitions() is None
        membership.handle(Registered(spec), 4.0)
    assert len(membership.partitions()) == 3
    version = membership.cluster_version
    actions = membership.handle(Placed(1), 5.0)
    assert actions[3:] == [Launch(ps(0, 3))]
    assert membership.cluster_version > version
    membership.handle(Registered(ps(0, 3)), 6.0)
    assert [one.spec for one in membership.partitions()] == [ps(0, 3)]
    assert membership.handle(Placed(2), 7.0)[1:] == [Launch(ps(0, 4)), Launch(ps(1, 4))]


def gives_up(actions) -> bool:
    return any(isinstance(a, GiveUp) for a in actions)


def test_all_partitions_must_register_before_the_cluster_is_known():
    membership = Membership(1, 2)
    membership.start(0.0)
    first, second = InstanceSpec(Role.PS, 0, 1), InstanceSpec(Role.PS, 1, 1)
    assert membership.handle(Registered(first, "a:1"), 0.0) == [PartitionUp(first, "a:1")]
    assert membership.handle(Registered(first, "a:1"), 0.0) == []
    assert membership.partitions() is None
    membership.handle(Registered(second, "b:1"), 0.0)
    assert [one.address for one in membership.partitions()] == ["a:1", "b:1"]


def test_scaling_up_launches_and_scaling_down_asks_the_highest_to_leave():
    membership = started(num_workers=2)
    assert membership.handle(Scaled(4), 1.0) == [Launch(worker(2)), Launch(worker(3))]
    stops = membership.handle(Scaled(1), 2.0)
    assert [a.spec.index for a in stops] == [1, 2, 3]
    assert all(isinstance(a, Stop) and a.grace_s > 0 for a in stops)
    actions = membership.handle(Ended(worker(1), End.of_exit_code(0)), 3.0)
    assert [type(a) for a in actions] == [WorkerGone], "it is not replaced"
    assert membership.handle(Scaled(2), 4.0) == [Launch(worker(1, 2))]


def test_nobody_is_replaced_once_the_job_is_over():
    membership = started()
    membership.handle(JobOver(), 1.0)
    assert membership.handle(Ended(worker(0), End.of_exit_code(0)), 2.0) == []
    assert membership.handle(Tick(), 10_000.0) == []


def test_under_random_events_exactly_the_wanted_workers_run_in_the_end():
    for seed in range(300):
        chance = random.Random(seed)
        membership, now = started(num_workers=3, most_crashes=10**9), 1.0
        for _ in range(60):
            now += chance.random()
            kind, instances = chance.randrange(4), membership.instances()
            spec = chance.choice(instances).spec
            if kind == 0 and spec.role is Role.WORKER:
                code = chance.choice([0, 1, -signal.SIGKILL, -signal.SIGSEGV])
                membership.handle(Ended(spec, End.of_exit_code(code)), now)
            elif kind == 1:
                membership.handle(Registered(spec), now)
            elif kind == 2 and chance.random() < 0.3:
                membership.handle(Scaled(chance.randint(1, 5)), now)
            else:
                membership.handle(Tick(), now)
            for one in membership.instances():
                membership.handle(Heard(one.spec), now)
        for one in membership.instances():  # Whoever was told to leave leaves.
            if one.state is State.STOPPING:
                membership.handle(Ended(one.spec, End.of_exit_code(0)), now)
        now += 1e9
        for one in membership.instances():
            membership.handle(Heard(one.spec), now)
        membership.handle(Tick(), now)
        alive = [
            one.spec.index
            for one in membership.instances()
            if one.spec.role is Role.WORKER and one.state is not State.GONE
        ]
        assert alive == list(range(membership.num_workers)), f"seed {seed}"


def test_what_one_death_costs_does_not_grow_with_the_number_of_workers():
    def work(num_workers: int) -> int:
        membership = Membership(num_workers, 2)
        for action in membership.start(0.0):
            membership.handle(Registered(action.spec, "host:1"), 0.0)
        lost = InstanceSpec(Role.WORKER, num_workers // 2, 1)

        def die() -> None:
            assert len(membership.handle(Ended(lost, End.of_exit_code(-9)), 1.0)) == 2
            assert membership.partitions() is not None
            assert membership.cluster_version

        return instructions_of(die)

    assert work(2_000) <= 1.1 * work(20)


def test_what_a_sign_of_life_asks_costs_the_same_among_many_partitions():
    def work(num_ps: int) -> int:
        membership = started(num_workers=1, num_ps=num_ps)
        first = membership.cluster_version
        membership.handle(Heard(worker(0)), 2.0)
        instructions = instructions_of(lambda: membership.cluster_version)
        assert membership.cluster_version == first
        return instructions + instructions_of(membership.partitions)

    assert work(1_000) == work(10)


def test_workers_that_wait_for_a_partition_ask_no_more_often_in_all_the_more_of_them_there_are():
    few, many = Membership(2, 1), Membership(10_000, 1)
    assert few.retry_after_s < 0.01
    assert 10_000 / many.retry_after_s <= MOST_POLLS_PER_S
    membership = started(num_workers=2)
    before = membership.retry_after_s
    membership.handle(Scaled(20_000), 2.0)
    assert membership.retry_after_s == 10_000 * before
