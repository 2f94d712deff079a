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
    """Call a user's function by the names it gives its parameters, in whatever order they stand.

    Where a name is not known, all are passed in the order of `arguments`. Further parameters keep
    their defaults.
    """
    names = [parameter.name for parameter in named_parameters(function)]
    if set(names[: len(arguments)]) == set(arguments):
        return function(**arguments)
    return function(*arguments.values())


def call_with_outputs_and_labels(function: Callable[..., Any], outputs: Any, labels: Any) -> Any:
    """Call a function of outputs and labels in the order that its first two names say.

    Where they say nothing, outputs come first. One known name tells what the other parameter is.
    """
    two = named_parameters(function)[:2]
    meant = ["labels" if p.name in LABELS else "outputs" if p.name in OUTPUTS else "" for p in two]
    if len(two) < 2 or meant[0] == meant[1]:
        return function(outputs, labels)
    first_is_labels = meant[0] == "labels" or meant[1] == "outputs"
    values = (labels, outputs) if first_is_labels else (outputs, labels)
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in two):
        return function(**{each.name: value for each, value in zip(two, values, strict=True)})
    return function(*values)


def named_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return a function's parameters, ``*args`` and ``**kwargs`` left out; none if built in."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in function
        return []
    return [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


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
