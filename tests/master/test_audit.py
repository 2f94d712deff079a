"""The audit tells what is missing: an audit that hides a loss would be the worst bug."""

from __future__ import annotations

import pytest

from elasticdl.api.result import audit_line
from elasticdl.master.audit import audit_training
from elasticdl.proto import ps_pb2


def partition(**changes) -> ps_pb2.PartitionAudit:
    """What a partition of three groups counts after two tasks of 50 records, all applied."""
    counts = {
        "applied_records": [100] * 3,
        "applied_minibatches": [10] * 3,
        "repeats_dropped": [0] * 3,
        "skipped_records": [0] * 3,
        "filtered_records": [0] * 3,
        "added_records": [0] * 3,
        "beyond_limit_records": [0] * 3,
        "closed_records": [100] * 3,
        "closed_tasks": 2,
    }
    return ps_pb2.PartitionAudit(groups=[0, 1, 2], **{**counts, **changes})


def audit(*partitions: ps_pb2.PartitionAudit, done: bool = True, relaunches: int = 0) -> dict:
    return audit_training(100, 2, partitions, relaunches, done)


def test_all_applied_is_nothing_lost():
    result = audit(partition(), partition(repeats_dropped=[3, 3, 3]), relaunches=2)
    assert result["applied_once"] == {"0": 100, "1": 100}
    assert (result["lost"], result["in_progress"], result["tasks_not_closed"]) == (0, 0, 0)
    assert (result["repeats_dropped"], result["relaunches"]) == (3, 2)
    assert audit_line(result) == (
        "audit: 100 records expected, 100 applied once on each of 2 partitions, "
        "0 filtered, 0 skipped, 3 repeats dropped, 0 lost"
    )


@pytest.mark.parametrize("applied", [[100, 90, 100], [90, 90, 90], [100, 110, 100]])
def test_one_group_that_disagrees_is_a_loss(applied):
    assert audit(partition(), partition(applied_records=applied))["lost"] == 10


def test_a_task_that_is_not_closed_is_told():
    result = audit(partition(), partition(applied_records=[50] * 3, closed_tasks=1))
    assert (result["lost"], result["tasks_not_closed"]) == (50, 1)


def test_what_is_missing_while_the_job_runs_is_in_progress():
    result = audit(partition(applied_records=[70] * 3, closed_tasks=1), done=False)
    assert (result["lost"], result["in_progress"]) == (0, 30)
    assert "30 in progress" in audit_line(result)


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ({"filtered_records": [20] * 3}, "filtered"),
        ({"skipped_records": [20] * 3}, "skipped"),
        ({"beyond_limit_records": [20] * 3}, "beyond_max_steps"),
    ],
)
def test_records_that_were_not_applied_are_told_apart(counts, name):
    result = audit(partition(applied_records=[80] * 3, **counts))
    assert (result[name], result["lost"]) == (20, 0)
    assert f"20 {name.replace('_max', ' max')}" in audit_line(result)


def test_added_records_do_not_hide_lost_ones():
    assert audit(partition(applied_records=[120] * 3, added_records=[20] * 3))["lost"] == 0
    assert audit(partition(applied_records=[100] * 3, added_records=[20] * 3))["lost"] == 20


def test_no_partition_at_all_is_everything_lost():
    assert audit()["lost"] == 100
