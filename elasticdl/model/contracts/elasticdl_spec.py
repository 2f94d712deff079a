"""Contract 1: a class derived from `ElasticDLSpec`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.definition import Definition, Role, UserFunction
from elasticdl.model.contracts.optimizers import optimizer_maker
from elasticdl.model.contracts.replacements import replacements
from elasticdl.model.mode import Mode
from elasticdl.model.params import parse_params, split_params
from elasticdl.model.source import ModelSource
from elasticdl.model.spec import ElasticDLSpec
from elasticdl.model.user_code import user_code
from elasticdl.model.zoo import ModelZoo

_METHODS: Mapping[Role, str] = {
    "model": "create_model",
    "optimizer": "create_optimizer",
    "loss": "create_loss",
    "metrics": "create_metrics",
    "dataset": "create_dataset",
    "callbacks": "create_callbacks",
    "prediction_outputs_processor": "create_prediction_outputs_processor",
}
# What a context says where nothing is running.
_NO_JOB = {"job_name": "", "role": "", "index": 0, "incarnation": 0, "master_address": ""}


def define_by_spec(
    source: ModelSource,
    mode: Mode,
    zoo: ModelZoo,
    spec_class: type[ElasticDLSpec],
    context: Mapping[str, Any],
    beside: str,
) -> Definition:
    """Construct the user's spec with its parameters, and return the definition it is.

    Raises:
      UsageError: a method that is needed is not defined, or a parameter is wrong.
      UserCodeError: the constructor raises.
    """
    functions = replacements(source, zoo, beside)
    needed: list[Role] = ["model", "dataset"]
    if mode is not Mode.PREDICTION:
        needed.append("loss")
    if mode is Mode.TRAINING:
        needed.append("optimizer")
    for role in needed:
        name = _METHODS[role]
        if role not in functions and getattr(spec_class, name) is getattr(ElasticDLSpec, name):
            raise UsageError(
                f"model_def '{source.model_def}': class '{spec_class.__name__}' has no {name}; "
                "define it"
            )
    own_optimizer = functions.get("optimizer")
    create_optimizer: Any = spec_class.create_optimizer
    if own_optimizer is not None:
        create_optimizer = optimizer_maker(own_optimizer.value, own_optimizer.label)
    for_constructor, for_optimizer = split_params(
        parse_params(source.params),
        source.model_def,
        spec_class,
        create_optimizer,
    )
    full_context = {**_NO_JOB, **context, "mode": mode}
    takes_context = _takes_context(spec_class)
    if takes_context:
        for_constructor["context"] = full_context
    with zoo.importable(), user_code(f"the constructor of '{source.model_def}'"):
        spec = spec_class(**for_constructor)
        if not takes_context and not spec.context:
            spec.context = MappingProxyType(full_context)
    for role, name in _METHODS.items():
        label = f"{name} of '{source.model_def}'"
        functions.setdefault(role, UserFunction(getattr(spec, name), label))
    optimizer = functions["optimizer"]
    create = optimizer_maker(optimizer.value, optimizer.label)
    functions["optimizer"] = UserFunction(
        functools.partial(create, **for_optimizer), optimizer.label
    )
    return Definition(source, mode, zoo, functions, (spec,))


def _takes_context(spec_class: type[ElasticDLSpec]) -> bool:
    parameters = inspect.signature(spec_class).parameters.values()
    return any(each.name == "context" or each.kind is each.VAR_KEYWORD for each in parameters)
