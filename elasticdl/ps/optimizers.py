"""The optimizers that run on the parameter server, with Keras's hyper-parameters and numerics.

Dense variables are updated as Keras 3 does, operation by operation in float32. Tables update the
rows of a minibatch only: equal to Keras for SGD and Adagrad; for the others this is the lazy
variant, where other rows keep their weights and their slots.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from elasticdl.ps.arrays import require, require_rows
from elasticdl.ps.row_parts import in_parts
from elasticdl.ps.update_rules import UPDATE_RULES, UpdateRule

_INFINITY = math.inf
# Of each number: the least and the most, and whether the most itself is allowed.
_BOUNDS = {
    "learning_rate": (0.0, _INFINITY, False),
    "weight_decay": (0.0, _INFINITY, False),
    "clipnorm": (0.0, _INFINITY, False),
    "clipvalue": (0.0, _INFINITY, False),
    "global_clipnorm": (0.0, _INFINITY, False),
    "momentum": (0.0, 1.0, True),
    "initial_accumulator_value": (0.0, _INFINITY, False),
    "beta_1": (0.0, 1.0, False),
    "beta_2": (0.0, 1.0, False),
    "rho": (0.0, 1.0, True),
    "epsilon": (0.0, _INFINITY, False),
    "learning_rate_power": (-_INFINITY, 0.0, True),
    "l1_regularization_strength": (0.0, _INFINITY, False),
    "l2_regularization_strength": (0.0, _INFINITY, False),
    "l2_shrinkage_regularization_strength": (0.0, _INFINITY, False),
    "beta": (0.0, _INFINITY, False),
}
_FLAGS = ("nesterov", "amsgrad", "centered")
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its hyper-parameters, by Keras's names; those it does not read are ignored.

    Args:
      name: one of `UPDATE_RULES`: its Keras class in lower case.
      learning_rate: the user's, where neither a schedule nor a call says otherwise.
      schedule: name of the schedule that decides the learning rate of each update; empty without.
      weight_decay: of every optimizer, decoupled: before an update, a weight loses this share of
        itself times the learning rate; 0 is without.
      clipnorm: largest norm of a variable's gradient; 0 is without, as in the next two, of which at
        most one is given.
      clipvalue: largest magnitude of a gradient's element.
      global_clipnorm: largest norm of all gradients together.
      momentum: of SGD and RMSprop, in [0, 1]; 0 is without a slot.
      nesterov: of SGD.
      initial_accumulator_value: of Adagrad and Ftrl, >= 0.
      beta_1: of the Adams and Lion, in [0, 1).
      beta_2: likewise.
      rho: of RMSprop and Adadelta, in [0, 1].
      epsilon: of all but SGD, Ftrl and Lion, >= 0.
      amsgrad: of Adam and AdamW.
      centered: of RMSprop.
      learning_rate_power: of Ftrl, <= 0.
      l1_regularization_strength: of Ftrl, >= 0, as the next three.
      l2_regularization_strength: of Ftrl.
      l2_shrinkage_regularization_strength: of Ftrl.
      beta: of Ftrl.

    Raises:
      ValueError: an unknown name, or a value out of range.

    References:
      docs/decisions/optimizers.md names the papers.
    """

    name: str
    learning_rate: float = 0.01
    schedule: str = ""
    weight_decay: float = 0.0
    clipnorm: float = 0.0
    clipvalue: float = 0.0
    global_clipnorm: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    initial_accumulator_value: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    rho: float = 0.9
    epsilon: float = 1e-7
    amsgrad: bool = False
    centered: bool = False
    learning_rate_power: float = -0.5
    l1_regularization_strength: float = 0.0
    l2_regularization_strength: float = 0.0
    l2_shrinkage_regularization_strength: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in UPDATE_RULES:
            known = ", ".join(UPDATE_RULES)
            raise ValueError(f"optimizer '{self.name}': not supported; supported: {known}")
        for field, (low, high, high_is_allowed) in _BOUNDS.items():
            value = getattr(self, field)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = is_number and math.isfinite(value) and low <= value
            if not fits or not (value < high or (high_is_allowed and value == high)):
                bounds = f"from {low:g} {'to' if high_is_allowed else 'to below'} {high:g}"
                raise ValueError(
                    f"optimizer '{self.name}': {field} is {value!r}; it must be a number {bounds}"
                )
        for field in _FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise ValueError(
                    f"optimizer '{self.name}': {field} is {getattr(self, field)!r}, not a bool"
                )
        if not isinstance(self.schedule, str):
            raise ValueError(f"optimizer '{self.name}': schedule is {self.schedule!r}, not a name")
        given = [f"{field}={getattr(self, field)}" for field in _CLIPS if getattr(self, field)]
        if len(given) > 1:
            raise ValueError(f"optimizer '{self.name}': {' and '.join(given)}; give one of them")

    @property
    def rule(self) -> UpdateRule:
        """How it updates."""
        return UPDATE_RULES[self.name]

    @property
    def slot_names(self) -> tuple[str, ...]:
        """What is kept for each weight, in the order of storage, by Keras's names."""
        return self.rule.slots(self)

    @property
    def num_slots(self) -> int:
        """How many values are kept for each weight."""
        return len(self.slot_names)

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped in any way, before they are applied."""
        return any(getattr(self, field) for field in _CLIPS)

    def initial_slot_value(self, slot: int) -> float:
        """Return what a slot holds before the first update."""
        name = self.slot_names[slot]
        return self.initial_accumulator_value if name == "accumulator" else 0.0

    def without_weight_decay(self) -> OptimizerConfig:
        """Return this one as it updates what is excluded from weight decay."""
        return dataclasses.replace(self, weight_decay=0.0)

    def load_kernels(self) -> None:
        """Compile what updates with it need, or load it from numba's cache."""
        _ = self._kernels, self._decay_kernels

    @cached_property
    def _kernels(self) -> Any:
        return _kernels_named(self.rule.kernels(self))

    @cached_property
    def _decay_kernels(self) -> Any:
        return _kernels_named("weight_decay") if self.weight_decay else None

    @cached_property
    def _constants(self) -> tuple[np.float32, ...]:
        return tuple(np.float32(value) for value in self.rule.constants(self))

    @cached_property
    def _decay(self) -> np.float32:
        return np.float32(self.weight_decay)

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> OptimizerConfig:
        """Return the config that `to_json` wrote; ValueError for any other text."""
        fields = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        is_config = isinstance(fields, dict) and set(fields) <= known
        if not is_config or not isinstance(fields.get("name"), str):
            raise ValueError(f"not an optimizer config: {text[:200]}")
        return cls(**fields)


def apply_dense(
    config: OptimizerConfig,
    weights: np.ndarray,
    slots: np.ndarray,
    gradients: np.ndarray,
    learning_rate: float,
    iteration: int,
) -> None:
    """Update a vector in place.

    Args:
      config: which optimizer.
      weights: float32 ``[n]``.
      slots: float32 ``[num_slots, n]``.
      gradients: float32 ``[n]``.
      learning_rate: of this step.
      iteration: 1 for the first update.

    Raises:
      ValueError: a shape or dtype is wrong; nothing was changed.
    """
    size = len(weights)
    _require_in_place("weights", weights, (size,))
    if slots.shape != (config.num_slots, size) or slots.dtype != np.float32:
        raise ValueError(f"slots are {slots.dtype}{list(slots.shape)}")
    for slot in slots:
        _require_in_place("a slot", slot, (size,))
    gradients = require("gradients", gradients, np.float32, (size,))
    rate = np.float32(learning_rate)
    if config.weight_decay:
        config._decay_kernels.dense(weights, rate, config._decay)
    kernels = config._kernels
    # Slots that a variant has no use for are empty.
    arrays = (*slots, *(weights[:0],) * (kernels.NUM_SLOTS - len(slots)))
    kernels.dense(weights, arrays, gradients, rate, iteration, config._constants)


def apply_rows(
    config: OptimizerConfig,
    storage: np.ndarray,
    row_indices: np.ndarray,
    gradients: np.ndarray,
    learning_rate: float,
    iterations: np.ndarray,
) -> None:
    """Update some rows of a table in place, in one pass over weights and slots.

    Args:
      config: which optimizer.
      storage: weights and slots side by side, float32 ``[capacity, dim * (1 + num_slots)]``.
      row_indices: distinct rows, int64 ``[n]``.
      gradients: one summed gradient per row, float32 ``[n, dim]``.
      learning_rate: of this step.
      iterations: 1 for a row's group's first update, int64 ``[n]``.

    Raises:
      ValueError: a shape, dtype or index is wrong; nothing was changed.
    """
    gradients = require("gradients", gradients, np.float32, (None, None))
    num_rows, dim = gradients.shape
    _require_in_place("storage", storage, (len(storage), dim * (1 + config.num_slots)))
    row_indices = require_rows("row_indices", row_indices, len(storage))
    if len(row_indices) != num_rows:
        raise ValueError(f"{len(row_indices)} row_indices for {num_rows} gradients")
    iterations = require("iterations", iterations, np.int64, (num_rows,))
    rate = np.float32(learning_rate)

    def update(part: slice) -> None:
        rows = row_indices[part]
        if config.weight_decay:
            config._decay_kernels.rows(storage, rows, dim, rate, config._decay)
        config._kernels.rows(
            storage, rows, gradients[part], rate, iterations[part], config._constants
        )

    in_parts(num_rows, update)


def _kernels_named(name: str) -> Any:
    return importlib.import_module(f"elasticdl.ps.optimizer_kernels.{name}")


def _require_in_place(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if (
        array.dtype != np.float32
        or array.shape != shape
        or not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable)
    ):
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}; it must be writable contiguous "
            f"float32{list(shape)}"
        )
