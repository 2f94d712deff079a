"""What a Keras optimizer's config means on the parameter server, or the error that says why not.

Without Keras: takes what `get_config()` returns, of Keras 3 and of tf_keras, old and new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.update_rules import UPDATE_RULES

_COMMON = ("learning_rate", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
# Keys that change nothing by themselves.
_WITHOUT_EFFECT = {
    "name",
    "ema_momentum",
    "ema_overwrite_frequency",
    "jit_compile",
    "is_legacy_optimizer",
}
_NO_LOSS_SCALING = "use the dtype policy 'mixed_bfloat16', which needs no loss scaling"
# What to use instead of options that have no sound meaning here.
_INSTEAD_OF_OPTION = {
    "use_ema": "leave it out; a schedule such as CosineDecay ends training as calmly",
    "loss_scale_factor": _NO_LOSS_SCALING,
    "gradient_accumulation_steps": "use --consistency=sync --grads_to_wait, which averages the "
    "gradients of several minibatches",
    "decay": "use keras.optimizers.schedules.InverseTimeDecay or ExponentialDecay as learning_rate",
}
_INSTEAD_OF_OPTIMIZER = {
    "lossscaleoptimizer": _NO_LOSS_SCALING,
    "lamb": "it scales by norms of whole variables, which no parameter server holds; use AdamW",
    "adafactor": "its factors need whole matrices, which no parameter server holds; use Adagrad, "
    "or RMSprop, with one slot",
    "muon": "it orthogonalizes whole matrices, which no parameter server holds; use AdamW",
    "schedulefreeadamw": "use AdamW with a schedule such as CosineDecay",
    "multioptimizer": "use one optimizer for all variables",
}


def supported_optimizers() -> str:
    """Return the names of the Keras classes, for messages."""
    *names, last = [rule.keras_name for rule in UPDATE_RULES.values()]
    return f"{', '.join(names)} or {last}"


def from_keras_config(config: Mapping[str, Any], class_name: str | None = None) -> OptimizerConfig:
    """Return the config of a Keras optimizer.

    Where its learning rate is a schedule, `schedule` names it; `learning_rate` is the default.

    Args:
      config: its `get_config()`.
      class_name: its class's name. Without it `config["name"]` tells, which a user can choose.

    Raises:
      UsageError: another optimizer, or an option that the parameter server does not apply.
    """
    shown = class_name or str(config.get("name"))
    name = shown.lower() if class_name else re.sub(r"_\d+$", "", shown).lower()
    if name not in UPDATE_RULES:
        instead = _INSTEAD_OF_OPTIMIZER.get(name, f"use {supported_optimizers()}")
        raise UsageError(f"optimizer '{shown}': not supported on the parameter server; {instead}")
    accepted = (*UPDATE_RULES[name].hyper_parameters, *_COMMON)
    fields: dict[str, Any] = {}
    for option, value in config.items():
        if hasattr(value, "item"):  # a number of NumPy's, as tf_keras has them
            value = value.item()
        if option == "learning_rate" and isinstance(value, Mapping):
            fields["schedule"] = str(value.get("class_name") or "schedule")
        elif option in accepted:
            if value is not None:
                fields[option] = value
        elif option not in _WITHOUT_EFFECT and value:
            instead = _INSTEAD_OF_OPTION.get(
                option, f"leave it out (supported: {', '.join(accepted)})"
            )
            raise UsageError(
                f"optimizer '{shown}': {option}={value!r} is not supported on the parameter "
                f"server; {instead}"
            )
    try:
        return OptimizerConfig(name, **fields)
    except ValueError as error:
        raise UsageError(str(error)) from error
