"""Functions that options put in the place of a definition's own."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import kind_of
from elasticdl.model.contracts.definition import Role, UserFunction
from elasticdl.model.contracts.literal_calls import LiteralCall, parse_call
from elasticdl.model.contracts.loss_names import is_crossentropy, loss_named, nearest_loss
from elasticdl.model.resolver import resolve
from elasticdl.model.source import ModelSource
from elasticdl.model.user_code import user_code
from elasticdl.model.zoo import ModelZoo

OPTIONS: Mapping[str, Role] = {
    "input_fn": "dataset",
    "loss": "loss",
    "optimizer": "optimizer",
    "eval_metrics_fn": "metrics",
    "callbacks": "callbacks",
    "prediction_outputs_processor": "prediction_outputs_processor",
    "custom_data_reader": "custom_data_reader",
}
_KERAS = ("tf.keras.", "tensorflow.keras.", "keras.", "tf.")


def replacements(source: ModelSource, zoo: ModelZoo, beside: str) -> dict[Role, UserFunction]:
    """Resolve the functions that options name.

    Args:
      source: has the options.
      zoo: where to look.
      beside: the module of the model, where a bare name is looked for first.

    Raises:
      UsageError: an option names nothing, or no function.
      UserCodeError: a module raises on import.
    """
    functions: dict[Role, UserFunction] = {}
    for option, role in OPTIONS.items():
        text = getattr(source, option)
        if text is None:
            continue
        label = f"--{option} function '{text}'"
        if option in ("loss", "optimizer"):
            value = _called(parse_call(text, option), option, zoo, beside, label)
        else:
            value = _function(text, option, zoo, beside)
        functions[role] = UserFunction(value, label)
    return functions


def _function(name: str, option: str, zoo: ModelZoo, beside: str) -> Any:
    if "." not in name:
        name = f"{beside}.{name}"
    function = resolve(zoo, name, option).value
    if not callable(function):
        raise UsageError(f"{option} '{name}': is {kind_of(function)}; name a function")
    return function


def _called(call: LiteralCall, option: str, zoo: ModelZoo, beside: str, label: str) -> Any:
    """Return the function or object that a name, or a call of it, stands for."""
    from_keras = _of_keras(call.name, option)
    if from_keras is None or not call.name.startswith(_KERAS):
        try:
            function = _function(call.name, option, zoo, beside)
        except UsageError as error:
            if from_keras is None:
                raise _with_nearest(error, call.name, option) from None
        else:
            return _with_arguments(call, function, option, zoo, label)
    if option == "optimizer":
        # Not made yet: --params may add the learning rate.
        return _optimizer_maker(call, from_keras, label)
    if not call.has_parentheses:
        return from_keras
    if isinstance(from_keras, str):
        raise UsageError(
            f"{label}: means the crossentropy that suits the labels, and takes no arguments; give "
            f"'{call.name}', or for example BinaryCrossentropy(from_logits=True)"
        )
    with user_code(label):
        return call.of(from_keras, _make_of_keras)


def _with_arguments(
    call: LiteralCall, function: Any, option: str, zoo: ModelZoo, label: str
) -> Any:
    if not call.has_parentheses:
        return function
    if option == "loss" and not inspect.isclass(function):
        if call.arguments:
            raise UsageError(f"{label}: give its arguments by name: {call.name}(name=…)")
        return functools.partial(function, **(call.keywords or {}))
    if option == "optimizer":
        return _optimizer_maker(call, function, label)
    with zoo.importable(), user_code(label):
        return call.of(function, _make_of_keras)


def _optimizer_maker(call: LiteralCall, function: Any, label: str) -> Any:
    if not call.has_parentheses:
        return function

    def make(**further: Any) -> Any:
        given = {"learning_rate", "lr"} & set(call.keywords or {})
        if further and (given or call.arguments):
            raise UsageError(
                f"params 'learning_rate': {label} gives it too; give it in one of them"
            )
        keywords = {**(call.keywords or {}), **further}
        return replace(call, keywords=keywords).of(function, _make_of_keras)

    return make


def _of_keras(name: str, option: str) -> Any | None:
    """Return what Keras has under a name of optimizers or losses, however it is capitalized.

    A loss may be an alias that `keras.losses.get` takes, or a name whose meaning labels decide.
    """
    from elasticdl.model.keras_api import keras

    family = {"optimizer": keras.optimizers, "loss": keras.losses}[option]
    prefixes = ("", *_KERAS)
    plain = name
    for prefix in prefixes:
        full = f"{prefix}{'optimizers' if option == 'optimizer' else 'losses'}."
        if name.startswith(full):
            plain = name[len(full) :]
    if "." in plain:
        return None
    by_lower = {each.lower(): each for each in reversed(dir(family)) if not each.startswith("_")}
    found = getattr(family, by_lower.get(plain.lower(), ""), None)
    if hasattr(family, plain):
        found = getattr(family, plain)
    if found is None and option == "loss" and plain == name:  # an alias is in no module
        return plain if is_crossentropy(plain) else loss_named(plain)
    kinds = (keras.optimizers.Optimizer, keras.losses.Loss)
    if inspect.isclass(found):
        return found if issubclass(found, kinds) and found not in kinds else None
    is_function = inspect.isfunction(found) and option == "loss"
    return found if is_function and plain not in ("get", "serialize", "deserialize") else None


def _with_nearest(error: UsageError, name: str, option: str) -> UsageError:
    """Return an error that says too what of Keras is most like a name."""
    from elasticdl.model.keras_api import keras

    plain = name.rpartition(".")[2]
    if option == "loss":
        near = nearest_loss(plain)
    else:
        names = [each for each in dir(keras.optimizers) if _of_keras(each, option) is not None]
        by_lower = {each.lower(): each for each in reversed(names)}
        close = difflib.get_close_matches(plain.lower(), by_lower, n=1)
        near = by_lower[close[0]] if close else None
    return UsageError(f"{error}; Keras has '{near}'") if near else error


def _make_of_keras(call: LiteralCall) -> Any:
    """Make what is the argument of a call: a schedule, or the optimizer that another wraps."""
    from elasticdl.model.keras_api import keras

    name = call.name.rpartition(".")[2]
    found = getattr(keras.optimizers.schedules, name, None) or _of_keras(name, "optimizer")
    if not inspect.isclass(found):
        raise UsageError(
            f"optimizer: '{call.name}(…)' is none of keras.optimizers.schedules; "
            "give literals or one of those"
        )
    return call.of(found, _make_of_keras)
