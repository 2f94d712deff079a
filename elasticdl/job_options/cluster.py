"""Options under the heading Cluster: how many instances run, and on what."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import COMMANDS, JOB
from elasticdl.options import option


class ClusterOptions(BaseModel):
    """How many instances run, and on what."""

    num_workers: int = option(
        2,
        "workers; 0 runs the whole job in this process, for a debugger; 2..8: of pods, as many as "
        "there is room for, and training begins with 2",
        group="Cluster",
        commands=JOB,
        metavar="N",
        example="2",
        also=("workers", "min_workers", "max_workers"),
        ge=0,
        le=10_000,
    )

    num_ps: int = option(
        1,
        "parameter servers",
        group="Cluster",
        commands=JOB,
        metavar="N",
        example="2",
        also=("ps", "num_ps_pods", "num_parameter_servers"),
        ge=1,
        le=1024,
    )

    num_bucket_groups: int = option(
        64,
        "shares the parameters are cut into, fixed for the job; at least --num_ps",
        group="Cluster",
        commands=JOB,
        metavar="N",
        example="64",
        ge=64,
        le=65_536,
    )

    worker_devices: Literal["auto", "cpu"] = option(
        "auto",
        "what workers compute on: auto takes turns at the machine's GPUs, where it has any; cpu",
        group="Cluster",
        commands=COMMANDS,
        metavar="auto|cpu",
        example="cpu",
    )

    worker_threads: int = option(
        0,
        "threads of each worker's TensorFlow; 0 shares out the machine's cores",
        group="Cluster",
        commands=JOB,
        metavar="N",
        example="2",
        ge=0,
        le=1024,
    )
