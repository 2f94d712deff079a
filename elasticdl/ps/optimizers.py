"""The optimizers that run on the parameter server, with Keras's hyper-parameters and numerics.

Dense variables are updated as Keras 3 does, operation by operation in float32. Tables update the
rows of a minibatch only: equal to Keras for SGD and Adagrad; for SGD with momentum and for Adam
this is the lazy variant, where other rows keep their weights and their slots.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from elasticdl.errors import UsageError
from elasticdl.ps import optimizer_kernels as kernels
from elasticdl.ps.arrays import require, require_rows

_HYPER_PARAMETERS = {
    "sgd": ("learning_rate", "momentum", "nesterov"),
    "adagrad": ("learning_rate", "initial_accumulator_value", "epsilon"),
    "adam": ("learning_rate", "beta_1", "beta_2", "epsilon"),
}
# Keys of a Keras config that change nothing by themselves.
_WITHOUT_EFFECT = {
    "name",
    "ema_momentum",
    "ema_overwrite_frequency",
    "jit_compile",
    "is_legacy_optimizer",
}


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its hyper-parameters; those of the other optimizers are ignored.

    Args:
      name: 'sgd', 'adagrad' or 'adam'.
      learning_rate: the user's, where a call does not say otherwise.
      momentum: of SGD, in [0, 1]; 0 is without a slot.
      nesterov: of SGD.
      initial_accumulator_value: of Adagrad, >= 0.
      beta_1: of Adam, in [0, 1).
      beta_2: of Adam, in [0, 1).
      epsilon: of Adagrad and Adam, >= 0.

    Raises:
      ValueError: an unknown name, or a value out of range.

    References:
      Duchi et al., "Adaptive Subgradient Methods", JMLR 12 (2011).
      Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """

    name: str
    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    initial_accumulator_value: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        if self.name not in _HYPER_PARAMETERS:
            known = ", ".join(_HYPER_PARAMETERS)
            raise ValueError(f"optimizer '{self.name}': not supported; supported: {known}")
        for field, low, high, high_is_allowed in (
            ("learning_rate", 0.0, math.inf, False),
            ("momentum", 0.0, 1.0, True),
            ("initial_accumulator_value", 0.0, math.inf, False),
            ("beta_1", 0.0, 1.0, False),
            ("beta_2", 0.0, 1.0, False),
            ("epsilon", 0.0, math.inf, False),
        ):
            value = getattr(self, field)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not (low <= value < high or (high_is_allowed and value == high)):
                bounds = f"from {low:g} {'to' if high_is_allowed else 'to below'} {high:g}"
                raise ValueError(
                    f"optimizer '{self.name}': {field} is {value!r}; it must be a number {bounds}"
                )
        if not isinstance(self.nesterov, bool):
            raise ValueError(f"optimizer '{self.name}': nesterov is {self.nesterov!r}, not a bool")

    @property
    def slot_names(self) -> tuple[str, ...]:
        """What is kept for each weight, in the order of storage, by Keras's names."""
        if self.name == "sgd":
            return ("momentum",) if self.momentum else ()
        return ("accumulator",) if self.name == "adagrad" else ("momentum", "velocity")

    @property
    def num_slots(self) -> int:
        """How many values are kept for each weight."""
        return len(self.slot_names)

    def initial_slot_value(self, slot: int) -> float:
        """Return what a slot holds before the first update."""
        name = self.slot_names[slot]
        return self.initial_accumulator_value if name == "accumulator" else 0.0

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

    @classmethod
    def from_keras_config(
        cls, config: Mapping[str, Any], class_name: str | None = None
    ) -> OptimizerConfig:
        """Return the config of a Keras optimizer.

        Args:
          config: its `get_config()`.
          class_name: its class's name. Without it `config["name"]` tells, which a user can choose.

        Raises:
          UsageError: another optimizer, or an option that the parameter server does not apply.
        """
        shown = class_name or str(config.get("name"))
        name = shown.lower() if class_name else re.sub(r"_\d+$", "", shown).lower()
        if name not in _HYPER_PARAMETERS:
            raise UsageError(
                f"optimizer '{shown}': not supported on the parameter server; use SGD, Adagrad or "
                "Adam"
            )
        if isinstance(config.get("learning_rate"), Mapping):
            schedule = config["learning_rate"].get("class_name", "schedule")
            raise UsageError(
                f"optimizer '{shown}': learning_rate is the schedule '{schedule}'; give a number"
            )
        accepted = _HYPER_PARAMETERS[name]
        for option, value in config.items():
            if option not in accepted and option not in _WITHOUT_EFFECT and value:
                raise UsageError(
                    f"optimizer '{shown}': {option}={value!r} is not supported on the parameter "
                    f"server; leave it out (supported: {', '.join(accepted)})"
                )
        try:
            return cls(name, **{option: config[option] for option in accepted if option in config})
        except ValueError as error:
            raise UsageError(str(error)) from error


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
    if config.name == "adam":
        kernels.adam_dense(
            weights, slots[0], slots[1], gradients, rate, *_adam_parameters(config), iteration
        )
    elif config.name == "adagrad":
        kernels.adagrad_dense(weights, slots[0], gradients, rate, np.float32(config.epsilon))
    elif config.momentum:
        momentum = np.float32(config.momentum)
        kernels.momentum_dense(weights, slots[0], gradients, rate, momentum, config.nesterov)
    else:
        kernels.sgd_dense(weights, gradients, rate)


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
    if config.name == "adam":
        kernels.adam_rows(
            storage, row_indices, gradients, rate, *_adam_parameters(config), iterations
        )
    elif config.name == "adagrad":
        kernels.adagrad_rows(storage, row_indices, gradients, rate, np.float32(config.epsilon))
    elif config.momentum:
        momentum = np.float32(config.momentum)
        kernels.momentum_rows(storage, row_indices, gradients, rate, momentum, config.nesterov)
    else:
        kernels.sgd_rows(storage, row_indices, gradients, rate)


def _adam_parameters(config: OptimizerConfig) -> tuple[np.float32, ...]:
    # Keras subtracts the betas from 1 in Python's floats, and rounds the difference.
    return (
        np.float32(config.beta_1),
        np.float32(config.beta_2),
        np.float32(1 - config.beta_1),
        np.float32(1 - config.beta_2),
        np.float32(config.epsilon),
    )


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
