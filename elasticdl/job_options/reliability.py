"""Options under the heading Reliability: what is done about what is lost, stuck or fails."""

from __future__ import annotations

from pydantic import BaseModel

from elasticdl.job_options.commands import JOB
from elasticdl.options import option


class ReliabilityOptions(BaseModel):
    """What is done about what is lost, stuck or fails."""

    max_task_failures: int = option(
        3,
        "times the model's code may raise on one task before the job fails",
        group="Reliability",
        commands=JOB,
        metavar="N",
        example="3",
        also=("max_retries", "retries"),
        ge=1,
        le=1000,
    )

    task_timeout: float = option(
        600.0,
        "seconds that model code may take for one minibatch, or to read one task, before its "
        "worker is replaced; 0: any time",
        group="Reliability",
        commands=JOB,
        metavar="SECONDS",
        example="600",
        also=("stuck_timeout",),
        ge=0,
        le=86_400,
    )

    warm_spares: int = option(
        0,
        "idle processes that have TensorFlow imported, to replace lost workers seconds sooner",
        group="Reliability",
        commands=JOB,
        metavar="N",
        example="1",
        also=("spares", "standby_workers", "spare_workers"),
        ge=0,
        le=1024,
    )

    lease_s: float = option(
        30.0,
        "seconds without a sign of life after which a worker's task is leased to another",
        group="Reliability",
        commands=JOB,
        metavar="SECONDS",
        example="30",
        also=("lease", "timeout"),
        ge=1,
        le=86_400,
    )

    checkpoint_steps: int = option(
        0,
        "take a checkpoint after every N steps of training; 0: not by steps",
        group="Reliability",
        commands=("train",),
        metavar="N",
        example="1000",
        also=("save_checkpoints_steps",),
        ge=0,
        le=1_000_000_000,
    )

    checkpoint_secs: float = option(
        600.0,
        "take a checkpoint every so many seconds; 0: not by time",
        group="Reliability",
        commands=("train",),
        metavar="SECONDS",
        example="600",
        also=("save_checkpoints_secs", "checkpoint_interval"),
        ge=0,
        le=1e9,
    )

    checkpoint_dir: str | None = option(
        None,
        "new or empty directory for the checkpoints (default: checkpoints, in the job's directory)",
        group="Reliability",
        commands=("train",),
        metavar="DIR",
        example="checkpoints",
        form="path",
        also=("checkpoint_path", "checkpoint"),
        min_length=1,
    )

    keep_checkpoints: int = option(
        3,
        "checkpoints to keep; older ones are removed when a newer one is committed",
        group="Reliability",
        commands=("train",),
        metavar="N",
        example="3",
        also=("keep_checkpoint_max", "max_to_keep"),
        ge=1,
        le=1_000_000,
    )

    ps_standby: int = option(
        0,
        "1: each parameter server keeps a copy of another one in its memory, from which that is "
        "restored with little to train again; async mode, --num_ps=2 or more",
        group="Reliability",
        commands=("train",),
        metavar="0|1",
        example="1",
        also=("standby",),
        ge=0,
        le=1,
    )
