"""Sync mode's protocol: many schedules of workers that die, repeat, delay and lag behind."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps.lanes import Answer, Closing, LaneError, Lanes, Place, Reading, Verdict, lowest
from elasticdl.ps.progress import CLOSED
from tests.ps.lanes_model import Cluster, Schedule

LANES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4)


def place(lane: int = 0, position: int = 0, epoch: int = 0, last: bool = False) -> Place:
    return Place(epoch, lane, position, 2, last)


def check(cluster: Cluster) -> None:
    """Every promise about a job that has ended."""
    expected = cluster.expected_steps()
    for partition in cluster.partitions:
        assert partition.steps == expected
        assert len(partition.closed) == len(set(partition.closed))
    applied = [one for step in expected for one in step]
    for minibatch in applied:
        versions = {version for _, version in cluster.versions[minibatch]}
        step = next(number for number, step in enumerate(expected) if minibatch in step)
        assert versions == {step}, "computed from another version than its step's"
    totals = {tuple(one.totals) for one in cluster.partitions}
    assert len(totals) == 1, "partitions scaled by different norms"


@settings(max_examples=400, deadline=None)
@given(
    epochs=st.lists(LANES, min_size=1, max_size=3),
    num_partitions=st.integers(1, 3),
    num_workers=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    exchanges_norms=st.booleans(),
)
def test_whoever_dies_every_partition_closes_the_same_steps(
    epochs, num_partitions, num_workers, seed, exchanges_norms
):
    cluster = Cluster(epochs, num_partitions, num_workers, seed, None, exchanges_norms)
    cluster.run()
    check(cluster)
    assert len(cluster.partitions[0].closed) == sum(len(t) for e in epochs for t in e)


@settings(max_examples=200, deadline=None)
@given(
    epochs=st.lists(LANES, min_size=1, max_size=2),
    num_partitions=st.integers(1, 3),
    num_workers=st.integers(1, 4),
    max_steps=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    exchanges_norms=st.booleans(),
)
def test_max_steps_is_met_exactly(
    epochs, num_partitions, num_workers, max_steps, seed, exchanges_norms
):
    cluster = Cluster(epochs, num_partitions, num_workers, seed, max_steps, exchanges_norms)
    cluster.run()
    check(cluster)
    for where, num_minibatches in cluster.limited.items():
        applied = [one for step in cluster.partitions[0].steps for one in step]
        assert num_minibatches == sum(one[:3] == where for one in applied)


@pytest.mark.parametrize("seed", range(20))
def test_a_job_ends_where_workers_die_all_the_time(seed):
    rng = random.Random(seed)
    epochs = [[[rng.randrange(6) for _ in range(3)] for _ in range(4)] for _ in range(2)]
    schedule = Schedule(lost=0.4, repeated=0.4, dies=0.05, loses_lease=0.1)
    cluster = Cluster(epochs, 3, 3, seed, None, bool(seed % 2), schedule)
    cluster.run()
    check(cluster)


def test_a_step_does_not_close_while_a_lane_is_missing():
    lanes = Lanes()
    assert lanes.pull(place(0), 0).answer is Answer.GO
    assert lanes.decide_push(place(0), 0).answer is Answer.GO
    lanes.take(place(0))
    assert lanes.pull(place(0), 1).answer is Answer.WAIT
    assert not lanes.is_complete
    assert lanes.awaited == [1]
    lanes.take(place(1))
    assert not lanes.is_complete, "buffered is not confirmed: another partition may lack it"
    lanes.pull(place(1), 1)
    assert lanes.is_complete
    assert lanes.close_step() == [0, 1]
    assert lanes.step == 1


def test_what_is_not_confirmed_is_served_again_and_what_is_confirmed_is_past():
    lanes = Lanes()
    lanes.pull(place(0), 0)
    lanes.take(place(0))
    assert lanes.pull(place(0), 0).answer is Answer.GO
    assert lanes.progress(place(0)).next == 1
    lanes.pull(place(0), 1)
    past = lanes.pull(place(0), 0)
    assert (past.answer, past.next) == (Answer.PAST, 1)


def test_a_pull_far_behind_is_led_to_what_may_still_be_missing_elsewhere():
    lanes = Lanes()
    for k in range(3):
        lanes.pull(place(0), k)
        lanes.take(place(0))
        if k < 2:
            lanes.pull(place(0), k + 1)
            lanes.take(place(1))
            lanes.pull(place(1), k + 1)
            lanes.close_step()
    assert lanes.pull(place(0), 0).next == 2, "nobody has said that all partitions have 2"


def test_the_next_task_and_the_next_epoch_wait_for_the_close_before():
    lanes = Lanes()
    assert lanes.pull(place(0, position=1), 0).answer is Answer.WAIT
    assert lanes.pull(place(0, epoch=1), 0).answer is Answer.WAIT
    assert lanes.decide_push(place(0, position=1), 0).answer is Answer.AHEAD
    for lane in (0, 1):
        assert lanes.close(place(lane, last=True), Closing(0, 0, False)).answer is Answer.GO
    assert lanes.pull(place(0, epoch=1), 0).answer is Answer.GO
    assert lanes.pull(place(0, last=True), 0).next == CLOSED


def test_a_task_that_ends_before_what_was_taken_is_an_error():
    lanes = Lanes()
    lanes.pull(place(0), 0)
    lanes.take(place(0))
    with pytest.raises(LaneError, match="closed after 0 minibatches, but 1 were taken"):
        lanes.close(place(0), Closing(0, 0, False))


def test_whoever_was_granted_the_lane_before_the_last_who_asked_changes_nothing():
    def says(grant: int, position: int = 0) -> Place:
        return Place(0, 0, position, 1, False, grant)

    lanes = Lanes()
    lanes.pull(says(1), 0)
    lanes.take(says(1), 7)
    assert lanes.progress(says(2)) == Verdict(Answer.GO, 1, reading=Reading(digest=7))
    closing = Closing(1, 4, False)
    for refused in (
        lanes.progress(says(1)),
        lanes.pull(says(1), 1),
        lanes.decide_push(says(1), 1),
        lanes.close(says(1), closing),
    ):
        assert refused.answer is Answer.OLD
    assert not lanes.is_complete
    assert lanes.close(says(2), closing).answer is Answer.WAIT
    lanes.close_step()
    assert lanes.close(says(2), closing).answer is Answer.GO
    assert lanes.decide_push(says(1, 1), 0).answer is Answer.OLD, "nor a task after it"
    assert lanes.decide_push(says(3, 1), 0).answer is Answer.GO


def test_a_state_has_the_reading_without_what_waits_for_its_step():
    lanes = Lanes()
    lanes.pull(Place(0, 0, 0, 1, False), 0)
    lanes.take(Place(0, 0, 0, 1, False), 7)
    lanes.pull(Place(0, 0, 0, 1, False), 1)
    lanes.close_step()
    anew = Place(0, 0, 0, 1, False, 0, 1, 1)
    lanes.pull(anew, 1)
    lanes.take(anew, 9)
    assert lanes.progress(anew).reading == Reading(1, 1, 9)
    again = Lanes()
    again.restore(lanes.state())
    assert again.progress(anew) == Verdict(Answer.GO, 1, reading=Reading(0, 0, 7))


def test_a_closed_task_tells_how_it_was_closed():
    lanes = Lanes()
    closing = Closing(0, 0, True)
    lanes.close(place(0), closing)
    assert lanes.progress(place(0)).closing == closing
    assert lanes.close(place(0), closing).answer is Answer.PAST


@pytest.mark.parametrize(
    "wrong", [Place(0, 2, 0, 2, False), Place(0, -1, 0, 2, False), Place(0, 0, 0, 1 << 40, False)]
)
def test_a_place_that_cannot_be_is_refused(wrong):
    with pytest.raises(LaneError):
        Lanes().pull(wrong, 0)


def test_another_number_of_lanes_in_one_epoch_is_refused():
    lanes = Lanes()
    lanes.pull(place(0), 0)
    with pytest.raises(LaneError, match="has 2 lanes, not 3"):
        lanes.pull(Place(0, 0, 0, 3, False), 0)


def test_lanes_begin_again_at_the_lower_of_two_states_and_want_what_waited() -> None:
    first, second = Place(0, 0, 0, 1, False), Place(0, 0, 1, 1, True)
    closing = Closing(2, 8, False)
    ahead, behind = Lanes(), Lanes()
    for lanes in (ahead, behind):
        for k in (0, 1):
            assert lanes.pull(first, k).answer is Answer.GO
            assert lanes.decide_push(first, k).answer is Answer.GO
            lanes.take(first)
            lanes.pull(first, k + 1)
            lanes.close_step()
    assert ahead.close(first, closing).answer is Answer.GO
    ahead.take(second)  # waits for its step
    again = Lanes()
    again.restore(ahead.state())
    assert again.step == 2
    assert again.progress(first) == Verdict(Answer.PAST, CLOSED, closing)
    assert again.decide_push(second, 0).answer is Answer.GO
    for states in ([ahead.state(), behind.state()], [behind.state(), ahead.state()]):
        both = Lanes()
        both.restore(lowest(states))
        assert both.progress(first) == Verdict(Answer.GO, 2)
        assert both.close(first, closing).answer is Answer.GO
        assert both.decide_push(second, 0).answer is Answer.GO


def test_an_epoch_that_only_some_have_begun_is_begun_again() -> None:
    only, following = Place(0, 0, 0, 1, True), Place(1, 0, 0, 2, True)
    ended, begun = Lanes(), Lanes()
    for lanes in (ended, begun):
        assert lanes.close(only, Closing(0, 0, False)).answer is Answer.GO
    assert begun.pull(following, 0).answer is Answer.GO
    both = Lanes()
    both.restore(lowest([begun.state(), ended.state()]))
    assert both.epoch == 0
    assert both.decide_push(following, 0).answer is Answer.GO


def test_parts_of_different_steps_make_no_lanes() -> None:
    ahead = Lanes()
    ahead.step = 1
    with pytest.raises(ValueError, match="different steps"):
        lowest([ahead.state(), Lanes().state()])
