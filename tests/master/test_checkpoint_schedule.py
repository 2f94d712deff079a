"""When a checkpoint is due, and what follows from the partitions' replies."""

from __future__ import annotations

import random

import pytest

from elasticdl.master.checkpoint_schedule import (
    LONGEST_CHAIN,
    LONGEST_PAUSE_S,
    STANDSTILL_S,
    Appointment,
    CheckpointSchedule,
    Verdict,
    bases,
    judge,
    why_failed,
)
from elasticdl.proto import ps_pb2

WRITING = ps_pb2.SnapshotReply(state=ps_pb2.SnapshotReply.WRITING)
WRITTEN = ps_pb2.SnapshotReply(state=ps_pb2.SnapshotReply.WRITTEN)
FAILED = ps_pb2.SnapshotReply(state=ps_pb2.SnapshotReply.FAILED, message="disk full")


def refused(status: ps_pb2.PsStatus) -> ps_pb2.SnapshotReply:
    return ps_pb2.SnapshotReply(status=status)


def test_one_is_due_by_steps_and_by_seconds_and_only_when_something_was_trained():
    schedule = CheckpointSchedule(steps=100, secs=60.0, now=0.0)
    assert schedule.due("", 0, 1000.0) == ""
    assert schedule.due("", 99, 59.0) == ""
    assert schedule.due("", 100, 59.0) == "steps"
    assert schedule.due("", 1, 60.0) == "secs"
    schedule.began(110, 60.0)
    schedule.ended(True, 61.0)
    assert schedule.due("", 199, 119.0) == ""
    assert schedule.due("", 200, 119.0) == "steps"
    assert schedule.due("", 111, 120.0) == "secs"
    never = CheckpointSchedule(steps=0, secs=0.0, now=0.0)
    assert never.due("", 10**9, 1e9) == ""
    assert never.due("final", 10**9, 1e9) == "final"


def test_one_that_failed_is_tried_again_at_its_next_time_and_ever_later_where_it_is_waited_for():
    schedule = CheckpointSchedule(steps=100, secs=0.0, now=0.0)
    schedule.began(100, 5.0)
    schedule.ended(False, 6.0)
    assert schedule.due("", 199, 1e6) == ""
    assert schedule.due("", 200, 1e6) == "steps"
    waits, now = [], 10.0
    for _ in range(12):
        schedule.began(100, now)
        schedule.ended(False, now)
        began = now
        while not schedule.due("final", 100, now):
            now += 0.25
        waits.append(now - began)
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] <= LONGEST_PAUSE_S
    schedule.ended(True, now)
    assert schedule.due("final", 100, now) == "final"


def test_all_parts_must_be_written():
    assert judge([WRITTEN, WRITTEN]) is Verdict.WRITTEN
    assert judge([WRITTEN, WRITING]) is Verdict.WAIT
    assert judge([WRITTEN, refused(ps_pb2.PS_NOT_YET)]) is Verdict.WAIT


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (refused(ps_pb2.PS_STALE_INCARNATION), Verdict.LOST),
        (refused(ps_pb2.PS_NOT_INITIALIZED), Verdict.LOST),
        (refused(ps_pb2.PS_PIN_TOO_LATE), Verdict.AGAIN),
        (refused(ps_pb2.PS_SNAPSHOT_GONE), Verdict.AGAIN),
        (refused(ps_pb2.PS_INVALID), Verdict.FAILED),
        (FAILED, Verdict.FAILED),
    ],
)
def test_one_partition_in_the_way_is_enough(reply, verdict):
    assert judge([WRITTEN, reply, WRITING]) is verdict


def test_a_failure_is_told_in_the_partitions_own_words():
    assert why_failed([WRITTEN, FAILED]) == "disk full"
    assert "PS_INVALID" in why_failed([WRITTEN, refused(ps_pb2.PS_INVALID)])


def test_partitions_that_move_meet_at_one_version_and_those_that_stand_still_at_theirs():
    for seed in range(200):
        chance = random.Random(seed)
        appointment, versions, moves = Appointment(), [chance.randint(0, 9)] * 3, seed % 4
        for _ in range(100):
            named = appointment.choose(versions)
            met, now = [False] * 3, 0.0
            for _ in range(1000):
                index = chance.randrange(3)
                met[index] |= versions[index] == named
                if moves and versions[index] == min(versions):  # Never more than one step apart.
                    versions[index] += chance.random() < 0.3 * moves
                now += STANDSTILL_S / 10
                if all(met) or appointment.stands_still(versions, now):
                    break
                if any(v > named and not m for v, m in zip(versions, met, strict=True)):
                    appointment.missed()
                    break
            else:
                raise AssertionError(f"seed {seed}: neither met nor missed")
            if all(met):
                break
            if max(versions) <= named:
                appointment.now_or_never()
        assert all(met), f"seed {seed}"


def part(index: int, incarnation: int = 1, number: int = 7) -> dict[str, int]:
    return {"partition": index, "incarnation": incarnation, "number": number}


def test_only_changes_are_written_where_the_same_partition_has_written_what_they_are_since():
    assert bases([1, 1], [], []) == [0, 0], "nothing was committed"
    chain = [{0: 100, 1: 100}, {0: 10, 1: 10}]
    assert bases([1, 1], [part(0), part(1)], chain) == [7, 7]
    assert bases([1, 2], [part(0), part(1)], chain) == [7, 0], "partition 1 was restored"
    assert bases([1, 1, 1], [part(0), part(1)], chain) == [7, 7, 0], "there are more of them"


def test_a_chain_that_is_long_or_heavy_begins_anew():
    parts = [part(0), part(1)]
    long = [{0: 100, 1: 100}] + [{0: 1, 1: 1}] * (LONGEST_CHAIN - 1)
    assert bases([1, 1], parts, long) == [0, 0]
    assert bases([1, 1], parts, long[:-1]) == [7, 7]
    heavy = [{0: 100, 1: 100}, {0: 60, 1: 10}, {0: 60, 1: 10}]
    assert bases([1, 1], parts, heavy) == [0, 7]
