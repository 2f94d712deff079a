"""Random plans of training jobs, for hypothesis, and seeds for what happens to them."""

from __future__ import annotations

from hypothesis import strategies as st

from elasticdl.data.shards import Shard
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, TaskKind

SEEDS = st.integers(0, 1 << 32)
NEVER = st.just(EvaluationSchedule())
SCHEDULES = st.builds(
    EvaluationSchedule,
    epochs=st.integers(0, 2),
    steps=st.sampled_from([0, 0, 3, 10]),
    secs=st.sampled_from([0.0, 0.0, 5.0]),
)
"""Of evaluations: more often than not without those by steps, and by seconds."""


def make_plan(
    shard_sizes: list[int],
    num_epochs: int,
    minibatch_size: int,
    records_per_task: int,
    max_steps: int | None,
    lanes: int = 0,
    validation: int = 0,
    evaluation: EvaluationSchedule | None = None,
) -> JobPlan:
    """A training job with its initialization and export."""
    return JobPlan(
        phases=(TaskKind.INITIALIZE, TaskKind.TRAINING, TaskKind.EXPORT),
        shards=tuple(Shard(f"shard-{i}", size) for i, size in enumerate(shard_sizes)),
        num_epochs=num_epochs,
        minibatch_size=minibatch_size,
        records_per_task=records_per_task,
        max_steps=max_steps,
        lease_s=30.0,
        lanes=lanes,
        validation_shards=(Shard("held-out", validation),) if validation else (),
        evaluation=evaluation or EvaluationSchedule(),
        best_path="best",
        backups=not lanes,
    )


def plans(
    most_shards: int = 3,
    most_epochs: int = 3,
    fewest_records_per_task: int = 1,
    most_steps: int | None = 60,
    most_lanes: int = 0,
    validation: st.SearchStrategy[int] | None = None,
    evaluation: st.SearchStrategy[EvaluationSchedule] = NEVER,
) -> st.SearchStrategy[JobPlan]:
    """Plans of small jobs, many of whose shards, tasks and minibatches do not come out even.

    Args:
      most_steps: the largest --max_steps, where there is one; None: there is none.
      most_lanes: of sync mode; 0: all are async.
      validation: number of records to evaluate on.
      evaluation: when to.
    """
    limits = st.none() if most_steps is None else st.none() | st.integers(1, most_steps)
    return st.builds(
        make_plan,
        shard_sizes=st.lists(st.integers(1, 60), min_size=1, max_size=most_shards),
        num_epochs=st.integers(1, most_epochs),
        minibatch_size=st.integers(1, 9),
        records_per_task=st.integers(fewest_records_per_task, 40),
        max_steps=limits,
        lanes=st.integers(0, most_lanes),
        validation=st.just(0) if validation is None else validation,
        evaluation=evaluation,
    )
