"""The commands that take options of a job."""

from __future__ import annotations

from typing import Literal, get_args

Command = Literal["train", "evaluate", "predict", "check"]
COMMANDS: tuple[str, ...] = get_args(Command)

TRAIN = ("train", "check")
JOB = ("train", "evaluate", "predict")
"""Those that are about training, and those that launch a job."""
