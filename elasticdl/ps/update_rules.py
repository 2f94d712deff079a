"""The optimizers, one entry each: hyper-parameters, slots, kernels. The only list of them.

To add one: an entry here, a module in `optimizer_kernels`, fields of `OptimizerConfig` for
hyper-parameters that none before had, and its reference in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from elasticdl.ps.optimizers import OptimizerConfig

    Choose = Callable[[OptimizerConfig], tuple[str, ...]]
    Constants = Callable[[OptimizerConfig], tuple[float, ...]]


@dataclass(frozen=True)
class UpdateRule:
    """How one optimizer updates weights.

    Attributes:
      keras_name: its class in `keras.optimizers`.
      hyper_parameters: fields of `OptimizerConfig` it reads, by Keras's names.
      slots: what it keeps for each weight, in the order of storage, by Keras's names.
      kernels: the module of `optimizer_kernels`.
      constants: what the kernels take, computed in Python's floats where Keras does so, and rounded
        to float32 afterwards.
    """

    keras_name: str
    hyper_parameters: tuple[str, ...]
    slots: Choose
    kernels: Callable[[OptimizerConfig], str]
    constants: Constants


def _moments(config: OptimizerConfig) -> tuple[float, ...]:
    beta_1, beta_2 = config.beta_1, config.beta_2
    return beta_1, beta_2, 1 - beta_1, 1 - beta_2, config.epsilon


def _one_minus(beta: float) -> float:
    """Subtract in float32, as Keras does in some optimizers and not in others."""
    return float(np.float32(1) - np.float32(beta))


_ADAM = UpdateRule(
    "Adam",
    ("beta_1", "beta_2", "epsilon", "amsgrad"),
    lambda config: ("momentum", "velocity", *(("velocity_hat",) if config.amsgrad else ())),
    lambda config: "amsgrad" if config.amsgrad else "adam",
    _moments,
)

UPDATE_RULES: Mapping[str, UpdateRule] = {
    "sgd": UpdateRule(
        "SGD",
        ("momentum", "nesterov"),
        lambda config: ("momentum",) if config.momentum else (),
        lambda config: "momentum" if config.momentum else "sgd",
        lambda config: (config.momentum, config.nesterov) if config.momentum else (),
    ),
    "adagrad": UpdateRule(
        "Adagrad",
        ("initial_accumulator_value", "epsilon"),
        lambda config: ("accumulator",),
        lambda config: "adagrad",
        lambda config: (config.epsilon,),
    ),
    "adam": _ADAM,
    "adamw": UpdateRule(
        "AdamW", _ADAM.hyper_parameters, _ADAM.slots, _ADAM.kernels, _ADAM.constants
    ),
    "rmsprop": UpdateRule(
        "RMSprop",
        ("rho", "momentum", "epsilon", "centered"),
        lambda config: (
            "velocity",
            *(("momentum",) if config.momentum else ()),
            *(("average_gradient",) if config.centered else ()),
        ),
        lambda config: "rmsprop",
        lambda config: (
            config.rho,
            1 - config.rho,
            config.momentum,
            config.epsilon,
            config.centered,
        ),
    ),
    "adadelta": UpdateRule(
        "Adadelta",
        ("rho", "epsilon"),
        lambda config: ("accumulated_grad", "accumulated_delta_var"),
        lambda config: "adadelta",
        lambda config: (config.rho, 1 - config.rho, config.epsilon),
    ),
    "adamax": UpdateRule(
        "Adamax",
        ("beta_1", "beta_2", "epsilon"),
        lambda config: ("momentum", "norm"),
        lambda config: "adamax",
        lambda config: (config.beta_1, config.beta_2, 1 - config.beta_1, config.epsilon),
    ),
    "nadam": UpdateRule(
        "Nadam",
        ("beta_1", "beta_2", "epsilon"),
        lambda config: ("momentum", "velocity"),
        lambda config: "nadam",
        lambda config: (
            config.beta_1,
            config.beta_2,
            _one_minus(config.beta_1),
            _one_minus(config.beta_2),
            config.epsilon,
        ),
    ),
    "ftrl": UpdateRule(
        "Ftrl",
        (
            "learning_rate_power",
            "initial_accumulator_value",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "l2_shrinkage_regularization_strength",
            "beta",
        ),
        lambda config: ("accumulator", "linear"),
        lambda config: "ftrl",
        lambda config: (
            -config.learning_rate_power,
            config.l1_regularization_strength,
            config.l2_regularization_strength,
            2 * config.l2_shrinkage_regularization_strength,
            config.beta,
        ),
    ),
    "lion": UpdateRule(
        "Lion",
        ("beta_1", "beta_2"),
        lambda config: ("momentum",),
        lambda config: "lion",
        lambda config: (
            config.beta_1,
            config.beta_2,
            _one_minus(config.beta_1),
            _one_minus(config.beta_2),
        ),
    ),
}
