"""Seeds that depend on what is computed, not on who computes it or when (R7)."""

from __future__ import annotations

from elasticdl.proto import master_pb2

_MOST_LANES = 1 << 16
_MOST_POSITIONS = 1 << 24


def number_of(task: master_pb2.Task) -> int:
    """Return what identifies a task in seeds: its id, or in sync mode its place.

    When an evaluation round comes, or comes again, is a matter of time, and its tasks have ids too.
    """
    if not task.HasField("lane"):
        return task.id
    place = task.lane
    return (place.epoch * _MOST_LANES + place.lane) * _MOST_POSITIONS + place.position


def order_seed(seed: int, task: master_pb2.Task) -> str:
    """Return the seed of the order of a task's records."""
    return f"{seed}/{number_of(task)}"


def step_seed(seed: int, task: master_pb2.Task, k: int) -> int:
    """Return the seed of the model's own randomness in minibatch k of a task."""
    return (seed * 1_000_003 + number_of(task)) * 1_000_003 + k
