"""From a job's description to its plan: phases, shards, tasks' size."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from elasticdl.data.shards import Shard, find_shards, load_shards
from elasticdl.job_spec import JobSpec
from elasticdl.master.tasks import (
    LONGEST_TASK,
    EvaluationSchedule,
    JobPlan,
    TaskKind,
    default_records_per_task,
)

PHASES = {
    "train": (TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT),
    "evaluate": (TaskKind.INITIALIZE, TaskKind.EVALUATION, TaskKind.SUMMARIZE),
    "predict": (TaskKind.INITIALIZE, TaskKind.PREDICTION, TaskKind.MERGE),
}


def make_plan(spec: JobSpec) -> JobPlan:
    """Find the data and lay out the job.

    Raises:
      UsageError: data files are missing, empty or unreadable.
    """
    assert spec.data is not None
    shards = _shards(spec, "data", spec.data)
    validation: tuple[Shard, ...] = ()
    if spec.command == "train" and spec.validation_data is not None:
        validation = _shards(spec, "validation_data", spec.validation_data)
    num_records = sum(shard.num_records for shard in shards)
    return JobPlan(
        phases=PHASES[spec.command],
        shards=shards,
        validation_shards=validation,
        evaluation=_schedule(spec),
        lanes=_num_lanes(spec),
        best_path=os.path.join(spec.job_dir, "best"),
        num_epochs=spec.num_epochs if spec.command == "train" else 1,
        minibatch_size=spec.minibatch_size,
        records_per_task=spec.records_per_task or _records_per_task(spec, num_records),
        max_steps=spec.max_steps,
        shuffle=spec.shuffle,
        seed=spec.seed,
        max_task_failures=spec.max_task_failures,
        lease_s=spec.lease_s,
        checkpoints=spec.command == "train",
        backups=spec.command == "train" and not _num_lanes(spec),
        keep_checkpoints=spec.keep_checkpoints,
    )


def _shards(spec: JobSpec, option: str, pattern: str) -> tuple[Shard, ...]:
    """What the user's own reader declared before the launch, else the files of a pattern."""
    declared = load_shards(spec.job_dir, option)
    return tuple(declared or find_shards(pattern, spec.max_chunk_bytes, option))


def _schedule(spec: JobSpec) -> EvaluationSchedule:
    epochs = spec.evaluation_epochs
    if epochs is None:
        epochs = 0 if spec.evaluation_steps or spec.evaluation_secs else 1
    return EvaluationSchedule(epochs, spec.evaluation_steps, spec.evaluation_secs)


def _num_lanes(spec: JobSpec) -> int:
    if spec.command != "train" or spec.consistency != "sync":
        return 0
    return spec.grads_to_wait or max(1, spec.num_workers)


def _records_per_task(spec: JobSpec, num_records: int) -> int:
    """Steps are counted when a task is done, so tasks are not much longer than what is counted."""
    longest = LONGEST_TASK
    if spec.evaluation_steps:
        longest = min(longest, max(1, spec.evaluation_steps // max(1, spec.num_workers)))
    workers = max(spec.num_workers, _num_lanes(spec))
    return default_records_per_task(num_records, spec.minibatch_size, workers, longest)


def plan_body(plan: JobPlan) -> dict[str, Any]:
    """The journal's form of a plan."""
    return {
        **{one.name: getattr(plan, one.name) for one in dataclasses.fields(plan)},
        "phases": [kind.name for kind in plan.phases],
        "evaluation": dataclasses.astuple(plan.evaluation),
        "shards": [dataclasses.astuple(shard) for shard in plan.shards],
        "validation_shards": [dataclasses.astuple(shard) for shard in plan.validation_shards],
    }


def plan_of(body: dict[str, Any]) -> JobPlan:
    """The plan of a journal's entry."""
    changed = {
        "phases": tuple(TaskKind[name] for name in body["phases"]),
        "evaluation": EvaluationSchedule(*body["evaluation"]),
        "shards": tuple(Shard(*each) for each in body["shards"]),
        "validation_shards": tuple(Shard(*each) for each in body["validation_shards"]),
    }
    return JobPlan(**{**body, **changed})
