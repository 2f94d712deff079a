"""Contracts 2 and 3: a Keras model class, and a module of functions around a model.

What a model class does not define, its module may.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import kind_of
from elasticdl.model.contracts.definition import Definition, Role, UserFunction
from elasticdl.model.contracts.keras_class import ModelClass
from elasticdl.model.contracts.optimizers import optimizer_maker
from elasticdl.model.contracts.replacements import replacements
from elasticdl.model.mode import Mode
from elasticdl.model.params import parse_params, split_params
from elasticdl.model.source import ModelSource
from elasticdl.model.spec import ElasticDLSpec
from elasticdl.model.zoo import ModelZoo

_NAMES: Mapping[Role, tuple[str, ...]] = {
    "optimizer": ("optimizer",),
    "loss": ("loss",),
    "dataset": ("feed", "dataset_fn"),
    "metrics": ("eval_metrics_fn",),
    "callbacks": ("callbacks",),
    "prediction_outputs_processor": ("PredictionOutputsProcessor",),
    "custom_data_reader": ("custom_data_reader",),
}
_MODEL_NAMES = ("custom_model", "CustomModel", "model")


def define_by_module(
    source: ModelSource,
    mode: Mode,
    zoo: ModelZoo,
    module: ModuleType,
    found: Any,
    beside: str,
) -> Definition:
    """Return the definition that a model and the functions beside it are.

    Args:
      source: what names the code.
      mode: what the model is run for.
      zoo: where the module is from.
      module: the module.
      found: what the model is made by: a function, a class derived from keras.Model, or a model.
      beside: the module's name in the zoo.

    Raises:
      UsageError: there is nothing to read the data with, or a parameter is wrong.
    """
    from elasticdl.model.keras_api import keras

    functions = {**_of_module(module, beside)}
    model_class: ModelClass | None = None
    make: Callable[..., Any]
    if inspect.isclass(found):
        model_class = ModelClass(found, source.model_def)
        functions.update(model_class.functions())
        make, constructor = model_class.create, model_class.signature
    elif isinstance(found, keras.Model):
        make = constructor = functools.partial(_copy, found)
    else:
        make = constructor = found
    functions.update(replacements(source, zoo, beside))
    if "dataset" not in functions:
        own = "default_input(dataset, mode) in the class, or " if model_class else ""
        raise UsageError(
            f"model_def '{source.model_def}': nothing reads the data; define {own}"
            f"feed(dataset, mode, metadata) in module '{beside}', or give --input_fn"
        )
    optimizer = functions.get("optimizer")
    create_optimizer: Callable[..., Any] | None = None
    if optimizer is not None:
        create_optimizer = optimizer_maker(optimizer.value, optimizer.label)
    for_model, for_optimizer = split_params(
        parse_params(source.params), source.model_def, constructor, create_optimizer
    )
    if model_class is not None:
        model_class.arguments = for_model
    else:
        make = functools.partial(make, **for_model)
    name = getattr(found, "__name__", "model")
    functions["model"] = UserFunction(make, _label(name, source.model_def))
    if optimizer is not None and create_optimizer is not None:
        functions["optimizer"] = UserFunction(
            functools.partial(create_optimizer, **for_optimizer), optimizer.label
        )
    owners = (module,) if model_class is None else (found, module)
    hints = _hints(beside, model_class is not None)
    compiled = zoo.compiled.get(id(found), {})
    return Definition(
        source, mode, zoo, functions, owners, as_keras=True, hints=hints, compiled=compiled
    )


def model_of_module(module: ModuleType, model_def: str) -> Any:
    """Return what makes the model of a module: custom_model, its one model class, or its model.

    Raises:
      UsageError: it has none, or several.
    """
    from elasticdl.model.keras_api import keras

    for name in _MODEL_NAMES:
        found = getattr(module, name, None)
        if inspect.isfunction(found) or _is_model_class(found) or isinstance(found, keras.Model):
            return found
    own = {
        name: value
        for name, value in vars(module).items()
        if _is_model_class(value) and value.__module__ == module.__name__
    }
    models = {name: each for name, each in vars(module).items() if isinstance(each, keras.Model)}
    candidates = own or models
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if candidates:
        names = ", ".join(map(repr, candidates))
        raise UsageError(
            f"model_def '{model_def}': the module defines {names}; say which: "
            f"{model_def}.{next(iter(candidates))}"
        )
    specs = [name for name, each in vars(module).items() if _is_own_spec(each, module)]
    if specs:
        raise UsageError(
            f"model_def '{model_def}': is a module; name its class: {model_def}.{specs[0]}"
        )
    raise UsageError(
        f"model_def '{model_def}': the module makes no model; define custom_model(), or a class "
        "derived from keras.Model"
    )


def check_is_model(found: Any, model_def: str) -> None:
    """Raise UsageError unless an object can make a model."""
    from elasticdl.model.keras_api import keras

    if inspect.isfunction(found) or _is_model_class(found) or isinstance(found, keras.Model):
        return
    raise UsageError(
        f"model_def '{model_def}': is {kind_of(found)}; name a class derived from "
        "elasticdl.ElasticDLSpec or keras.Model, a function that returns a model, or a module "
        "with custom_model()"
    )


def _of_module(module: ModuleType, beside: str) -> dict[Role, UserFunction]:
    functions: dict[Role, UserFunction] = {}
    for role, names in _NAMES.items():
        for name in names:
            value = getattr(module, name, None)
            if value is not None and not isinstance(value, ModuleType):
                functions.setdefault(role, UserFunction(value, _label(name, beside)))
    return functions


def _copy(model: Any) -> Any:
    """Return a new model of the structure and the values of one that a module made.

    An embedding matrix that is a table in the new one has no values yet.
    """
    from elasticdl.model.keras_api import keras, variable_path

    with warnings.catch_warnings():
        # Keras would compile the copy too, but for the compile() that records.
        warnings.filterwarnings("ignore", message=".*compile")
        copied = keras.models.clone_model(model)
    if not model.weights:
        return copied
    if not copied.built:
        copied.build(model.input_shape)
    by_path = {variable_path(each): each for each in model.weights}
    if len(by_path) < len(model.weights) or len(copied.weights) == len(model.weights):
        copied.set_weights(model.get_weights())
        return copied
    for each in copied.weights:
        if variable_path(each) in by_path:
            each.assign(by_path[variable_path(each)])
    return copied


def _is_model_class(value: Any) -> bool:
    from elasticdl.model.keras_api import keras

    return inspect.isclass(value) and issubclass(value, keras.Model)


def _is_own_spec(value: Any, module: ModuleType) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, ElasticDLSpec)
        and value.__module__ == module.__name__
    )


def _label(name: str, of: str) -> str:
    return f"{name} of '{of}'"


def _hints(beside: str, is_class: bool) -> dict[Role, str]:
    own = "default_{0} in the class, or " if is_class else ""
    return {
        "loss": f"has no loss; define {own.format('loss')}loss(labels, predictions) in module "
        f"'{beside}', compile the model with one, or give --loss",
        "optimizer": f"has no optimizer; define {own.format('optimizer')}optimizer() in module "
        f"'{beside}', compile the model with one, or give --optimizer",
    }
