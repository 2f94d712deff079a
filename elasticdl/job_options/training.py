"""Options under the heading Training: how long and how a model is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import TRAIN
from elasticdl.options import option


class TrainingOptions(BaseModel):
    """How long and how a model is trained."""

    num_epochs: int = option(
        1,
        "times to go over the data",
        group="Training",
        commands=("train",),
        metavar="N",
        example="3",
        also=("epochs", "epoch"),
        ge=1,
        le=1_000_000,
    )

    max_steps: int | None = option(
        None,
        "stop after this many minibatches, exactly",
        group="Training",
        commands=("train",),
        metavar="N",
        example="1000",
        also=("steps", "num_steps"),
        ge=1,
        le=1 << 60,
    )

    staleness: int = option(
        1,
        "how many of a worker's own pushes may be under way when it pulls",
        group="Training",
        commands=("train",),
        metavar="N",
        example="1",
        ge=0,
        le=64,
        also=("get_model_steps",),
    )

    staleness_aware_learning_rate: bool = option(
        False,
        "divide the learning rate of a push by the minibatches applied since its pull",
        group="Training",
        commands=("train",),
        metavar="true|false",
        example="true",
        also=("lr_staleness_modulation",),
    )

    consistency: Literal["async", "sync"] = option(
        "async",
        "async: each minibatch is applied when it is pushed; sync: --grads_to_wait of them as one",
        group="Training",
        commands=TRAIN,
        metavar="async|sync",
        example="sync",
        also=("use_async",),
    )

    grads_to_wait: int | None = option(
        None,
        "minibatches that make a step in sync mode (default: --num_workers at launch)",
        group="Training",
        commands=TRAIN,
        metavar="G",
        example="2",
        ge=1,
        le=10_000,
    )

    wire_dtype: Literal["float32", "bfloat16"] = option(
        "float32",
        "what weights and gradients travel as; bfloat16 halves the bytes, and rounds them",
        group="Training",
        commands=TRAIN,
        metavar="float32|bfloat16",
        example="bfloat16",
        also=("communication_dtype", "grad_dtype", "compression"),
    )

    on_nan: Literal["stop", "skip"] = option(
        "stop",
        "when a loss or gradient is not finite: stop the job, or skip the minibatch and count it",
        group="Training",
        commands=TRAIN,
        metavar="stop|skip",
        example="stop",
    )

    class_weight: str | None = option(
        None,
        "how much records count in the loss of training, by class",
        group="Training",
        commands=TRAIN,
        metavar="DICT",
        example="{0: 1.0, 1: 3.0}",
        also=("class_weights",),
        min_length=1,
    )

    seed: int = option(
        0,
        "seed of the initial weights and of the shuffling",
        group="Training",
        commands=TRAIN,
        metavar="N",
        example="1",
        also=("random_seed",),
        ge=0,
        lt=1 << 63,
    )
