"""From a job's description to its plan: phases, shards, tasks' size."""

from __future__ import annotations

from elasticdl.data.shards import Shard, find_shards
from elasticdl.job_spec import JobSpec
from elasticdl.master.tasks import JobPlan, TaskKind, default_records_per_task

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
    shards = tuple(find_shards(spec.data, spec.max_chunk_bytes))
    phases: tuple[TaskKind, ...] = PHASES[spec.command]
    validation: tuple[Shard, ...] = ()
    if spec.command == "train" and spec.validation_data is not None:
        validation = tuple(
            find_shards(spec.validation_data, spec.max_chunk_bytes, "validation_data")
        )
        phases = (*phases[:2], TaskKind.EVALUATION, TaskKind.SUMMARIZE, phases[2])
    num_records = sum(shard.num_records for shard in shards)
    return JobPlan(
        phases=phases,
        shards=shards,
        validation_shards=validation,
        num_epochs=spec.num_epochs if spec.command == "train" else 1,
        minibatch_size=spec.minibatch_size,
        records_per_task=spec.records_per_task
        or default_records_per_task(num_records, spec.minibatch_size, spec.num_workers),
        max_steps=spec.max_steps,
        shuffle=spec.shuffle,
        seed=spec.seed,
        max_task_failures=spec.max_task_failures,
        lease_s=spec.lease_s,
    )
