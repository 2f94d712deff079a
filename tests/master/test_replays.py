"""Partitions that are lost and restored: under random schedules, and the rules one by one."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elasticdl.errors import JobError
from elasticdl.master.replays import Replays, contains
from elasticdl.master.tasks import EvaluationSchedule, Task, TaskKind
from tests.master.plans import SEEDS, plans
from tests.master.restart_model import RestartModel, common


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=plans(
        validation=st.integers(0, 20),
        evaluation=st.builds(EvaluationSchedule, st.integers(0, 2), st.sampled_from([0, 0, 3])),
    ),
    num_workers=st.integers(1, 4),
    num_partitions=st.integers(1, 3),
    seed=SEEDS,
    disturbances=st.integers(0, 60),
    keeps_best=st.booleans(),
    keep_checkpoints=st.integers(1, 4),
)
def test_restored_partitions_catch_up_and_nothing_is_lost_or_applied_twice(
    plan, num_workers, num_partitions, seed, disturbances, keeps_best, keep_checkpoints
):
    plan = dataclasses.replace(plan, checkpoints=True, keep_checkpoints=keep_checkpoints)
    cluster = RestartModel(plan, num_workers, num_partitions, seed)
    if keeps_best and plan.validation_shards:
        best = {"kind": "best_model", "monitor": "val_loss", "mode": "min", "path": "kept"}
        cluster.initialized = {"callbacks": [best]}
    cluster.run(disturbances)
    cluster.check()
    expected = {
        f"held-out {start}:{min(start + plan.records_per_task, shard.num_records)}"
        for shard in plan.validation_shards
        for start in range(0, shard.num_records, plan.records_per_task)
    }
    for number, counted in cluster.rounds.items():
        assert set(counted.values()) == {1}, number
        assert set(counted) <= expected


@given(
    st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=4),
)
def test_what_is_common_to_sets_of_intervals(sets):
    def intervals(values):
        found = []
        for value in sorted(values):
            if found and found[-1][1] == value:
                found[-1] = (found[-1][0], value + 1)
            else:
                found.append((value, value + 1))
        return tuple(found)

    together = common([intervals(one) for one in sets])
    for value in range(31):
        assert contains(together, value) == all(value in one for one in sets)
        assert contains(intervals(sets[0]), value) == (value in sets[0])
        for end in range(value + 1, 31):
            assert contains(together, value, end) == all(
                one.issuperset(range(value, end)) for one in sets
            )


def test_a_partition_that_lacks_what_the_last_checkpoint_has_is_an_error_and_no_loss():
    replays = Replays()
    replays.done(Task(3, TaskKind.TRAINING))
    replays.committed(1, ((0, 5),))
    assert len(replays) == 0
    assert replays.restored(((0, 9),)) == []
    with pytest.raises(JobError, match="tasks 0 to 4"):
        replays.restored(((0, 4),))


def test_tasks_are_known_as_long_as_a_kept_checkpoint_lacks_them():
    replays = Replays(num_kept=2)
    replays.committed(1, ())
    for number in range(2, 5):
        replays.done(Task(number, TaskKind.TRAINING))
        replays.committed(number, ((2, number + 1),))
        assert len(replays) == 0
    assert [number for number in range(1, 5) if replays.can_go_back_to(number)] == [3, 4]
    replays.fell_back(3, ((2, 4),))
    assert [task.id for task in replays] == [4]
    assert [task.id for task in replays.restored(((2, 4),))] == [4]
    with pytest.raises(JobError, match="tasks 2 to 3"):
        replays.restored(((2, 3),))
    assert not replays.done(Task(4, TaskKind.TRAINING)), "a replay"
    replays.committed(5, ((2, 5),))
    assert [number for number in range(1, 6) if replays.can_go_back_to(number)] == [3, 5]
    assert len(replays) == 0
