"""How functions of a model's definition are called: by the names they give their parameters."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LABELS = {"labels", "label", "y_true", "targets", "target"}
OUTPUTS = {"outputs", "output", "predictions", "prediction", "y_pred", "logits"}


def call_by_names(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a user's function with those of the arguments that its parameters name, in any order.

    Where it needs one of another name, they are passed in the order of `arguments`, as many as it
    needs. Further parameters keep their defaults.
    """
    parameters = named_parameters(function)
    required = [each for each in parameters if each.default is each.empty]
    known = [each.name for each in parameters if each.name in arguments]
    if not takes_any_position(function) and all(each.name in arguments for each in required):
        names = arguments if takes_any_name(function) else known
        return function(**{name: arguments[name] for name in names})
    values = list(arguments.values())
    if takes_any_position(function):
        return function(*values)
    wanted = [each.name in arguments or each in required for each in parameters]
    return function(*values[: len(wanted) - wanted[::-1].index(True)])


def call_with_outputs_and_labels(
    function: Callable[..., Any],
    outputs: Any,
    labels: Any,
    labels_first: bool = False,
    **further: Any,
) -> Any:
    """Call a function of outputs and labels in the order that its first two names say.

    One known name tells what the other parameter is.

    Args:
      function: the user's.
      outputs: the model's.
      labels: the dataset's.
      labels_first: the order where the names say nothing.
      further: passed by name.
    """
    two = named_parameters(function)[:2]
    meant = ["labels" if p.name in LABELS else "outputs" if p.name in OUTPUTS else "" for p in two]
    if len(two) < 2 or meant[0] == meant[1]:
        pair = (labels, outputs) if labels_first else (outputs, labels)
        return function(*pair, **further)
    first_is_labels = meant[0] == "labels" or meant[1] == "outputs"
    values = (labels, outputs) if first_is_labels else (outputs, labels)
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in two):
        return function(
            **{each.name: value for each, value in zip(two, values, strict=True)}, **further
        )
    return function(*values, **further)


def needs_no_arguments(function: Callable[..., Any]) -> bool:
    """Whether a function of Python's takes no parameters at all."""
    try:
        return not inspect.signature(function).parameters
    except (ValueError, TypeError):
        return False


def takes_any_name(function: Callable[..., Any]) -> bool:
    """Whether a function has ``**kwargs``."""
    return _has_kind(function, inspect.Parameter.VAR_KEYWORD)


def takes_any_position(function: Callable[..., Any]) -> bool:
    """Whether a function has ``*args``; so is taken what is built in."""
    return _has_kind(function, inspect.Parameter.VAR_POSITIONAL)


def named_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return a function's parameters, ``*args`` and ``**kwargs`` left out; none if built in."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in function
        return []
    return [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _has_kind(function: Callable[..., Any], kind: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in function
        return kind is inspect.Parameter.VAR_POSITIONAL
    return any(each.kind is kind for each in parameters)


@contextmanager
def without_shuffling() -> Iterator[None]:
    """Let `tf.data.Dataset.shuffle` of this thread do nothing inside the block.

    Inside the lock that `ModelZoo.importable` holds.
    """
    import tensorflow as tf

    shuffle, thread = tf.data.Dataset.shuffle, threading.get_ident()

    def keep_order(dataset: tf.data.Dataset, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        if threading.get_ident() == thread:
            return dataset
        return shuffle(dataset, *args, **kwargs)

    tf.data.Dataset.shuffle = keep_order
    try:
        yield
    finally:
        tf.data.Dataset.shuffle = shuffle


def kind_of(value: Any) -> str:
    """Return what a value is, for messages."""
    if inspect.isclass(value):
        return f"class '{value.__name__}'"
    if inspect.isfunction(value):
        return f"function '{value.__name__}'"
    if inspect.ismodule(value):
        return f"module '{value.__name__.rpartition('.')[2]}'"
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
