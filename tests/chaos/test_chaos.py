"""Real jobs, disturbed at random times, that end as if nothing had been.

Their processes are killed and stopped, others are wanted, messages are lost and connections cut.

CHAOS_SEED chooses other times and victims, CHAOS_SECS how long jobs are disturbed (0: one short
job), CHAOS_ROLES whose processes; jobs have a warm spare where `spare` is among them. Every other
job of async mode has --ps_standby=1; with CHAOS_STANDBY=1 each has.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.chaos.rounds import DEADLINE_S, RECORDS, Rounds
from tests.chaos.schedule import draw
from tests.job.clicks_data import write_clicks

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SECS = float(os.environ.get("CHAOS_SECS", "0"))
# After the supervisor's death somebody has to resume the job, which takes long.
ROLES = (*2 * ("worker", "ps", "master"), "supervisor") if SECS else ("worker", "ps", "master")
STANDBY_EVERY = 1 if os.environ.get("CHAOS_STANDBY") == "1" else 2
ROLES = tuple(os.environ.get("CHAOS_ROLES", ",".join(ROLES)).split(","))


def test_the_same_seed_draws_the_same_schedule_and_every_role_gets_its_share():
    first, second, other = (
        draw(random.Random(seed), ["a", "b", "c"], 2.0, 30) for seed in (1, 1, 2)
    )
    assert first == second != other
    assert not any(one.stopped_s or one.scaled_to for one in first[:3]), "each is killed once"
    assert sorted(one.role for one in first) == 10 * ["a"] + 10 * ["b"] + 10 * ["c"]


@pytest.mark.timeout(SECS + 4 * DEADLINE_S)
def test_a_job_ends_with_every_record_counted_once_whoever_is_killed_or_stopped(start, tmp_path):
    data = write_clicks(tmp_path / "data", RECORDS)
    rounds = Rounds(start, data, SEED, ROLES, STANDBY_EVERY)
    chance, began, number = random.Random(SEED), time.monotonic(), 0
    if not SECS:
        rounds.play(0, "async", 2 * len(ROLES), mean_pause_s=2.0, from_training=True)
    while time.monotonic() - began < SECS:
        mode = ("async", "sync")[number % 2]
        rounds.play(
            number,
            mode,
            disturbances=chance.randint(16, 48),
            mean_pause_s=chance.choice([0.5, 1.0, 3.0]),
            from_training=chance.random() < 0.5,
        )
        number += 1
        spent_s = time.monotonic() - began
        print(f"CHAOS_SEED={SEED}: {number} jobs in {spent_s:.0f} s: {dict(rounds.counts)}")
    assert rounds.counts.total()
