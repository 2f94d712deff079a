"""What a model is being run for."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """What a model is being run for; user code receives it in create_dataset and create_metrics.

    A training job runs in TRAINING over its data and in EVALUATION over its validation data;
    ``evaluate`` runs in EVALUATION; ``predict`` runs in PREDICTION, where labels may be absent.
    """

    TRAINING = "training"
    EVALUATION = "evaluation"
    PREDICTION = "prediction"
