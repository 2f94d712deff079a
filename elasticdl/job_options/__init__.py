"""The options of jobs: each is declared once, in the module of its heading in the help."""

from __future__ import annotations

from pydantic import ConfigDict

from elasticdl.job_options.cluster import ClusterOptions
from elasticdl.job_options.commands import Command
from elasticdl.job_options.data import DataOptions
from elasticdl.job_options.display import DisplayOptions
from elasticdl.job_options.evaluation import EvaluationOptions
from elasticdl.job_options.image import ImageOptions
from elasticdl.job_options.job import JobOptions
from elasticdl.job_options.kubernetes import KubernetesOptions
from elasticdl.job_options.model import ModelOptions
from elasticdl.job_options.output import OutputOptions
from elasticdl.job_options.reliability import ReliabilityOptions
from elasticdl.job_options.training import TrainingOptions


# Pydantic takes the fields of the last base first: this is the order of the help, from the end.
class AllOptions(
    DisplayOptions,
    JobOptions,
    OutputOptions,
    ReliabilityOptions,
    ImageOptions,
    KubernetesOptions,
    ClusterOptions,
    EvaluationOptions,
    TrainingOptions,
    DataOptions,
    ModelOptions,
):
    """What a train, evaluate, predict or check run can be told; frozen."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )

    command: Command = "train"
    min_workers: int = 0
    """Of `--num_workers=2..8` the 2: workers that training waits for; 0: it waits for none."""
