"""The audit: what every group of every partition applied, against what the job was to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elasticdl.proto import ps_pb2

_COUNTS = {
    "filtered": "filtered_records",
    "added": "added_records",
    "skipped": "skipped_records",
    "beyond_max_steps": "beyond_limit_records",
}


def audit_training(
    records_expected: int,
    tasks_expected: int,
    partitions: Sequence[ps_pb2.PartitionAudit],
    relaunches: int,
) -> dict[str, Any]:
    """Compare what the groups counted with what the ledger granted.

    Of the records expected each group has applied, dropped as filtered, skipped (not finite) or not
    reached (`max_steps`) some; what is missing then is lost. Records the input function added are
    applied besides. Groups of one partition agree unless something is wrong: the worst is reported.

    Args:
      records_expected: of all tasks granted, all epochs.
      tasks_expected: how many they are.
      partitions: the counts of every partition, by index.
      relaunches: instances that were replaced.

    Returns:
      What `elasticdl jobs audit --json` prints.
    """
    lost, open_tasks = 0, 0
    for partition in partitions:
        open_tasks = max(open_tasks, tasks_expected - partition.closed_tasks)
        for position in range(len(partition.groups)):
            accounted = (
                partition.applied_records[position]
                - partition.added_records[position]
                + partition.filtered_records[position]
                + partition.skipped_records[position]
                + partition.beyond_limit_records[position]
            )
            lost = max(lost, abs(records_expected - accounted))
    counts = {
        name: max((max(getattr(one, field), default=0) for one in partitions), default=0)
        for name, field in _COUNTS.items()
    }
    return {
        "records_expected": records_expected,
        "applied_once": {
            str(index): min(one.applied_records, default=0) for index, one in enumerate(partitions)
        },
        **counts,
        "repeats_dropped": sum(max(one.repeats_dropped, default=0) for one in partitions),
        "lost": lost,
        "tasks": tasks_expected,
        "tasks_not_closed": open_tasks,
        "groups": sum(len(one.groups) for one in partitions),
        "partitions": len(partitions),
        "minibatches": max(
            (max(one.applied_minibatches, default=0) for one in partitions), default=0
        ),
        "relaunches": relaunches,
    }


def audit_records(records_expected: int, records_done: int, relaunches: int) -> dict[str, Any]:
    """The audit of an evaluation or prediction: its tasks' results are each counted once."""
    return {
        "records_expected": records_expected,
        "applied_once": {},
        "filtered": 0,
        "added": 0,
        "skipped": 0,
        "beyond_max_steps": 0,
        "repeats_dropped": 0,
        "lost": records_expected - records_done,
        "relaunches": relaunches,
    }
