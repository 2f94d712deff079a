"""Metrics as sums that can be added up: state(A) + state(B) = state(A ∪ B)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class MetricState:
    """The state of one metric.

    Attributes:
      kind: ``mean``: (sum of values × records, records); ``keras``: a Keras metric's variables.
      arrays: float64.
    """

    kind: Literal["mean", "keras"]
    arrays: tuple[np.ndarray, ...]


MetricStates = Mapping[str, MetricState]


def merge(a: MetricStates, b: MetricStates) -> dict[str, MetricState]:
    """Return the states over the records of both; a metric that one lacks is the other's."""
    merged = dict(a)
    for name, state in b.items():
        if name in merged:
            arrays = zip(merged[name].arrays, state.arrays, strict=True)
            state = MetricState(state.kind, tuple(x + y for x, y in arrays))
        merged[name] = state
    return merged


def means(states: MetricStates) -> dict[str, float]:
    """Return the results of the metrics that are means; needs no TensorFlow."""
    results = {}
    for name, state in states.items():
        if state.kind == "mean":
            total, records = (float(each) for each in state.arrays)
            results[name] = total / records if records else float("nan")
    return results


def to_json(states: MetricStates) -> dict[str, Any]:
    """Return the states as what JSON can hold, exactly."""
    return {
        name: {
            "kind": state.kind,
            "shapes": [list(each.shape) for each in state.arrays],
            "values": [each.ravel().tolist() for each in state.arrays],
        }
        for name, state in states.items()
    }


def from_json(value: Mapping[str, Any]) -> dict[str, MetricState]:
    """Return the states that `to_json` gave."""
    return {
        name: MetricState(
            state["kind"],
            tuple(
                np.asarray(values, np.float64).reshape(shape)
                for values, shape in zip(state["values"], state["shapes"], strict=True)
            ),
        )
        for name, state in value.items()
    }
