"""The lazy variant of each optimizer in NumPy: the touched rows alone, from the papers' formulas.

Written independently of the kernels: whole arrays in float32, products of scalars in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from elasticdl.ps.optimizers import OptimizerConfig

f32 = np.float32


@dataclass
class Touched:
    """The touched rows of one table, and what updates them; slots by Keras's names."""

    config: OptimizerConfig
    weights: np.ndarray
    slots: dict[str, np.ndarray]
    gradients: np.ndarray
    rate: np.float32
    iterations: np.ndarray

    def powers(self, base: float, ahead: int = 0) -> np.ndarray:
        """Return base**t by row, as a column.

        1 - base**t cancels digits, so its last bit counts: as in Keras's scalars it is the C
        library's; NumPy's power of arrays is less precise.
        """
        powers = [f32(base) ** f32(t + ahead) for t in self.iterations]
        return np.array(powers, f32).reshape(-1, 1)


def apply(
    config: OptimizerConfig,
    weights: np.ndarray,
    slots: Mapping[str, np.ndarray],
    rows: np.ndarray,
    gradients: np.ndarray,
    iterations: np.ndarray,
    rate: float | None = None,
) -> None:
    """Update rows of a table in place: weights and slots are float32 ``[rows, dim]``."""
    learning_rate = f32(config.learning_rate if rate is None else rate)
    touched = Touched(
        config,
        weights[rows] - weights[rows] * f32(config.weight_decay) * learning_rate,
        {name: values[rows] for name, values in slots.items()},
        gradients,
        learning_rate,
        iterations,
    )
    REFERENCES[config.name](touched)
    weights[rows] = touched.weights
    for name, values in slots.items():
        values[rows] = touched.slots[name]


def _sgd(t: Touched) -> None:
    step = t.gradients * t.rate
    if not t.config.momentum:
        t.weights -= step
        return
    momentum = f32(t.config.momentum)
    velocity = t.slots["momentum"] = t.slots["momentum"] * momentum - step
    t.weights += velocity * momentum - step if t.config.nesterov else velocity


def _adagrad(t: Touched) -> None:
    t.slots["accumulator"] += t.gradients**2
    t.weights -= t.rate * t.gradients / np.sqrt(t.slots["accumulator"] + f32(t.config.epsilon))


def _adam(t: Touched) -> None:
    first, second = t.slots["momentum"], t.slots["velocity"]
    first += (t.gradients - first) * f32(1 - t.config.beta_1)
    second += (t.gradients**2 - second) * f32(1 - t.config.beta_2)
    largest = second
    if t.config.amsgrad:
        largest = t.slots["velocity_hat"] = np.maximum(t.slots["velocity_hat"], second)
    correction = np.sqrt(1 - t.powers(t.config.beta_2)) / (1 - t.powers(t.config.beta_1))
    t.weights -= first * (t.rate * correction) / (np.sqrt(largest) + f32(t.config.epsilon))


def _adamax(t: Touched) -> None:
    first = t.slots["momentum"]
    first += (t.gradients - first) * f32(1 - t.config.beta_1)
    norm = np.maximum(f32(t.config.beta_2) * t.slots["norm"], np.abs(t.gradients))
    t.slots["norm"] = norm
    correction = 1 - t.powers(t.config.beta_1)
    t.weights -= t.rate * first / (correction * (norm + f32(t.config.epsilon)))


def _nadam(t: Touched) -> None:
    beta_1, beta_2 = f32(t.config.beta_1), f32(t.config.beta_2)

    def u(step: int) -> np.float32:
        return beta_1 * (f32(1) - f32(0.5) * f32(0.96) ** f32(step))

    def product(steps: int) -> np.float32:  # as Keras's variable comes to be, factor by factor
        value = f32(1)
        for step in range(1, steps + 1):
            value *= u(step)
        return value

    def column(values: list[np.float32]) -> np.ndarray:
        return np.array(values, f32).reshape(-1, 1)

    steps = [int(step) for step in t.iterations]
    first, second = t.slots["momentum"], t.slots["velocity"]
    first += (t.gradients - first) * (f32(1) - beta_1)
    second += (t.gradients**2 - second) * (f32(1) - beta_2)
    ahead = column([u(step + 1) for step in steps]) * first
    ahead /= 1 - column([product(step + 1) for step in steps])
    now = (1 - column([u(step) for step in steps])) * t.gradients
    now /= 1 - column([product(step) for step in steps])
    corrected = second / (1 - t.powers(t.config.beta_2))
    t.weights -= (ahead + now) * t.rate / (np.sqrt(corrected) + f32(t.config.epsilon))


def _rmsprop(t: Touched) -> None:
    rho, rest = f32(t.config.rho), f32(1 - t.config.rho)
    t.slots["velocity"] = rho * t.slots["velocity"] + rest * t.gradients**2
    denominator = t.slots["velocity"]
    if t.config.centered:
        average = rho * t.slots["average_gradient"] + rest * t.gradients
        t.slots["average_gradient"] = average
        denominator = denominator - average**2
    step = t.rate * t.gradients / np.sqrt(denominator + f32(t.config.epsilon))
    if t.config.momentum:
        step = t.slots["momentum"] = f32(t.config.momentum) * t.slots["momentum"] + step
    t.weights -= step


def _adadelta(t: Touched) -> None:
    rho, rest, epsilon = f32(t.config.rho), f32(1 - t.config.rho), f32(t.config.epsilon)
    of_gradients = rho * t.slots["accumulated_grad"] + rest * t.gradients**2
    of_steps = t.slots["accumulated_delta_var"]
    step = np.sqrt(of_steps + epsilon) * t.gradients / np.sqrt(of_gradients + epsilon)
    t.slots["accumulated_grad"] = of_gradients
    t.slots["accumulated_delta_var"] = rho * of_steps + rest * step**2
    t.weights -= t.rate * step


def _ftrl(t: Touched) -> None:
    power, l1 = f32(-t.config.learning_rate_power), f32(t.config.l1_regularization_strength)
    squares = t.slots["accumulator"] + t.gradients**2
    sigma = (squares**power - t.slots["accumulator"] ** power) / t.rate
    shrinkage = f32(2 * t.config.l2_shrinkage_regularization_strength)
    linear = t.slots["linear"] + (t.gradients + shrinkage * t.weights - sigma * t.weights)
    l2 = f32(t.config.l2_regularization_strength) + f32(t.config.beta) / (f32(2) * t.rate)
    t.slots["accumulator"], t.slots["linear"] = squares, linear
    t.weights = (np.clip(linear, -l1, l1) - linear) / (squares**power / t.rate + f32(2) * l2)


def _lion(t: Touched) -> None:
    beta_1, beta_2 = f32(t.config.beta_1), f32(t.config.beta_2)
    momentum = t.slots["momentum"]
    t.weights -= t.rate * np.sign(momentum * beta_1 + t.gradients * (f32(1) - beta_1))
    t.slots["momentum"] = momentum * beta_2 + t.gradients * (f32(1) - beta_2)


REFERENCES: dict[str, Callable[[Touched], None]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "adam": _adam,
    "adamw": _adam,
    "adamax": _adamax,
    "nadam": _nadam,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "ftrl": _ftrl,
    "lion": _lion,
}
