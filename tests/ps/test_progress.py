"""Rules R1 and R2 for the groups of one partition."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elasticdl.ps.interval_set import IntervalSet
from elasticdl.ps.progress import CLOSED, Progress, TaskState


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40)))
def test_an_interval_set_is_a_set_kept_short(values):
    intervals = IntervalSet()
    for value in values:
        intervals.add(value)
    assert [value for value in range(50) if value in intervals] == sorted(set(values))
    assert len(intervals) == len(set(values))
    parts = intervals.intervals
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(parts))


def push(progress: Progress, task: int, k: int, records: int = 10, loss: float = 1.0):
    decision = progress.decide(task, k)
    if decision.in_order and decision.apply.any():
        progress.advance(decision, task, 0, records, loss)
    elif decision.in_order:
        progress.drop_repeat(decision)
    return decision


def test_minibatches_are_applied_in_order_and_once():
    progress = Progress(2)
    assert push(progress, 7, 0).apply.all()
    assert push(progress, 7, 0).repeat.all()
    late = push(progress, 7, 2)
    assert (late.in_order, late.next) == (False, 1)
    assert push(progress, 7, 1).apply.all()
    assert progress.next(7) == 2
    assert progress.totals.applied_records.tolist() == [20, 20]
    assert progress.totals.repeats_dropped.tolist() == [1, 1]


def test_iterations_count_updates_apart_from_minibatches():
    """A step of sync mode is one update of many minibatches."""
    progress = Progress(3)
    for k in range(4):
        push(progress, 7, k)
    assert progress.iterations.tolist() == [0, 0, 0]
    assert progress.count_update(np.array([True, False, True])).tolist() == [1, 0, 1]
    assert progress.count_update(np.array([True, True, True])).tolist() == [2, 1, 2]
    assert progress.totals.applied_minibatches.tolist() == [4, 4, 4]


def test_a_closed_task_drops_everything_for_ever():
    progress = Progress(2)
    push(progress, 7, 0)
    progress.close(progress.decide(7, 1), 7, 10, emitted_records=10, limited=False)
    assert progress.next(7) == CLOSED
    for k in (0, 1, 5):
        decision = progress.decide(7, k)
        assert decision.in_order
        assert not decision.apply.any()
    assert 7 in progress.closed
    assert progress.totals.closed_records.tolist() == [10, 10]


def test_a_task_cannot_be_closed_before_its_last_minibatch():
    progress = Progress(1)
    push(progress, 7, 0)
    assert not progress.decide(7, 2).in_order


def test_what_was_not_applied_of_a_task_is_told_apart():
    progress = Progress(1)
    push(progress, 1, 0, records=6)
    progress.close(progress.decide(1, 1), 1, 10, emitted_records=6, limited=False)
    push(progress, 2, 0, records=6)
    progress.close(progress.decide(2, 1), 2, 10, emitted_records=6, limited=True)
    push(progress, 3, 0, records=12)
    progress.close(progress.decide(3, 1), 3, 10, emitted_records=12, limited=False)
    progress.skip(progress.decide(4, 0), 4, num_records=10)
    progress.close(progress.decide(4, 1), 4, 10, emitted_records=10, limited=False)
    totals = progress.totals
    assert totals.filtered_records.tolist() == [4]
    assert totals.beyond_limit_records.tolist() == [4]
    assert totals.added_records.tolist() == [2]
    assert totals.skipped_records.tolist() == [10]
    assert totals.applied_records.tolist() == [24]


def test_groups_of_one_partition_may_stand_at_different_minibatches():
    progress = Progress(3)
    push(progress, 7, 0)
    push(progress, 7, 1)
    progress._open[7].set(1, TaskState(next=0))  # As if this group had been restored.
    assert progress.next(7) == 0
    decision = push(progress, 7, 0)
    assert decision.apply.tolist() == [False, True, False]
    assert decision.repeat.tolist() == [True, False, True]
    assert push(progress, 7, 1).apply.tolist() == [False, True, False]
    assert push(progress, 7, 2).apply.all()
    progress.close(progress.decide(7, 3), 7, 30, emitted_records=30, limited=False)
    assert progress.next(7) == CLOSED


def test_a_group_that_closed_a_task_which_others_have_not_begun_drops_it():
    before, after = Progress(1), Progress(1)
    after.advance(after.decide(7, 0), 7, 0, 10, 1.0, digest=1)
    after.close(after.decide(7, 1, digest=1, closes=True), 7, 10, 10, False)
    both = Progress.of_groups([after.group(0), before.group(0)])
    assert both.next(7) == 0
    decision = both.decide(7, 0)
    assert decision.apply.tolist() == [False, True]
    assert decision.repeat.tolist() == [True, False]
    both.drop_repeat(decision)
    both.advance(decision, 7, 0, 10, 1.0, digest=1)
    both.close(both.decide(7, 1, digest=1, closes=True), 7, 10, 10, False)
    assert 7 in both.closed
    assert both.totals.applied_records.tolist() == [10, 10]
    assert both.totals.repeats_dropped.tolist() == [1, 0]


def test_records_that_were_emitted_and_not_counted_stay_missing():
    progress = Progress(1)
    push(progress, 1, 0, records=6)
    progress.close(progress.decide(1, 1), 1, 10, emitted_records=10, limited=False)
    totals = progress.totals
    assert totals.filtered_records.tolist() == [0]
    assert totals.applied_records.tolist() == [6], "4 of 10 are accounted for nowhere"


def test_losses_of_an_epoch_are_summed_once_per_record():
    progress = Progress(2)
    for k, loss in enumerate([1.0, 3.0]):
        push(progress, 1, k, records=10, loss=loss)
        push(progress, 1, k, records=10, loss=99.0)
    sums = progress.epochs[0]
    np.testing.assert_array_equal(sums.records, [20, 20])
    np.testing.assert_allclose(sums.loss, [40.0, 40.0])


def test_a_later_attempt_takes_back_what_the_task_counted_and_an_earlier_one_is_old():
    progress = Progress(2)
    progress.advance(progress.decide(7, 0), 7, 0, 10, 1.0, digest=5)
    progress.skip(progress.decide(7, 1, digest=5), 7, 10, digest=6)
    assert progress.decide(7, 2, digest=5).differs
    assert not progress.decide(7, 2, digest=6).differs
    assert progress.decide(7, 1, digest=6, closes=True).differs, "more of it were applied"
    assert (progress.next(7), progress.next(7, attempt=1)) == (2, 0)
    assert not progress.decide(7, 2, attempt=1, digest=6).in_order
    progress.advance(progress.decide(7, 0, attempt=1), 7, 0, 4, 1.0, digest=8)
    assert progress.decide(7, 2, digest=6).is_old
    totals = progress.totals
    assert totals.applied_records.tolist() == [4, 4]
    assert totals.skipped_records.tolist() == [0, 0]
    assert totals.repeated_records.tolist() == [10, 10]
    progress.close(progress.decide(7, 1, 1, 8, closes=True), 7, 10, 4, limited=False)
    assert totals.filtered_records.tolist() == [6, 6]
    late = progress.decide(7, 0, attempt=2)
    assert not late.apply.any(), "what is closed stays closed"


def test_an_attempt_that_the_limit_ends_before_its_first_minibatch_takes_nothing_back():
    progress = Progress(2)
    progress.advance(progress.decide(7, 0), 7, 0, 10, 1.0)
    progress.skip(progress.decide(7, 1), 7, 5)
    progress.close(progress.decide(7, 0, attempt=1), 7, 40, 0, limited=True)
    totals = progress.totals
    assert totals.applied_records.tolist() == [10, 10]
    assert totals.skipped_records.tolist() == [5, 5]
    assert totals.beyond_limit_records.tolist() == [25, 25]
    assert totals.repeated_records.tolist() == [0, 0]
    assert totals.closed_records.tolist() == [40, 40]


def test_a_group_moves_with_its_digests_attempts_and_counts():
    progress = Progress(2)
    for attempt in (0, 3):
        decision = progress.decide(7, 0, attempt)
        progress.advance(decision, 7, 0, 10, 1.0, digest=(1 << 64) - 1)
    groups = [progress.group(position) for position in (0, 1)]
    assert groups[0].open == {7: TaskState(1, (1 << 64) - 1, 3, 10, 0)}
    again = Progress.of_groups(groups)
    for position, group in enumerate(groups):
        moved = again.group(position)
        assert (moved.open, moved.totals, moved.epochs) == (group.open, group.totals, group.epochs)
    assert again.decide(7, 1, 3, digest=1).differs
    assert again.decide(7, 0, 2).is_old


OTHER = ["restore one group", "keep", "mix"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*["push"] * 4, "skip", "close", "close", *OTHER]),
            st.integers(0, 4) | st.none(),  # k; None: what is wanted
            st.integers(0, 1),  # attempt
            st.sampled_from([0, 0, 0, 5]),  # a digest that the groups do not have
        ),
        max_size=25,
    )
)
@example([("keep", None, 0, 0), ("push", None, 0, 0), ("close", None, 0, 0), ("mix", None, 0, 0)])
def test_it_makes_no_difference_whether_all_groups_are_known_to_stand_alike(requests):
    short, whole = Progress(3), Progress(3)
    kept = whole.copy()
    for what, wanted, attempt, wrong in requests:
        k = min(whole.next(7, attempt), 9) if wanted is None else wanted
        if what == "keep":
            kept = whole.copy()
        if what == "mix":  # As parts of a checkpoint are, which are of different moments.
            groups = [kept.group(0), whole.group(1), whole.group(2)]
            short, whole = Progress.of_groups(groups), Progress.of_groups(groups)
        for progress in (short, whole):
            if what in ("keep", "mix"):
                continue
            if what == "restore one group" and 7 in progress._open:
                progress._open[7].set(1, TaskState(next=k, digest=k))
                continue
            decision = progress.decide(7, k, attempt, k ^ wrong, what == "close")
            if not decision.in_order or decision.is_old or decision.differs:
                continue
            progress.drop_repeat(decision)
            if what == "close":
                progress.close(decision, 7, 40, 10 * k, False)
            elif what == "skip" and decision.apply.any():
                progress.skip(decision, 7, 10, k + 1)
            elif decision.apply.any():
                progress.advance(decision, 7, 0, 10, 1.0, k + 1)
        for task in whole._open.values():
            task.of_all = None
        of_short, of_whole = (each.decide(7, k, attempt, k) for each in (short, whole))
        assert str(of_short) == str(of_whole)
        assert short.next(7, attempt) == whole.next(7, attempt)
        for position in range(3):
            one, other = short.group(position), whole.group(position)
            assert (one.totals, one.open, one.epochs) == (other.totals, other.open, other.epochs)
            assert one.closed.bounds == other.closed.bounds
