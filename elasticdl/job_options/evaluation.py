"""Options under the heading Evaluation: when a training job evaluates."""

from __future__ import annotations

from pydantic import BaseModel

from elasticdl.options import option


class EvaluationOptions(BaseModel):
    """When a training job evaluates."""

    evaluation_epochs: int | None = option(
        None,
        "evaluate on --validation_data after every N epochs, 0 for not "
        "(default: 1, or 0 where --evaluation_steps or --evaluation_secs are given)",
        group="Evaluation",
        commands=("train",),
        metavar="N",
        example="1",
        also=("validation_freq",),
        ge=0,
        le=1_000_000,
    )

    evaluation_steps: int = option(
        0,
        "evaluate on --validation_data after every N steps; 0: not by steps",
        group="Evaluation",
        commands=("train",),
        metavar="N",
        example="1000",
        ge=0,
        le=1 << 60,
    )

    evaluation_secs: float = option(
        0.0,
        "evaluate on --validation_data every so many seconds; 0: not by time",
        group="Evaluation",
        commands=("train",),
        metavar="SECONDS",
        example="60",
        also=("evaluation_throttle_secs",),
        ge=0,
        le=1e9,
    )
