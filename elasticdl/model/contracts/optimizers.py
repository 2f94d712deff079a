"""The forms in which people give an optimizer."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import kind_of

_OLD_OPTIMIZER = re.compile(r"has no attribute '(\w*Optimizer)'")
_NEW_NAMES = {"GradientDescentOptimizer": "SGD", "MomentumOptimizer": "SGD"}


def optimizer_maker(value: Any, label: str) -> Callable[..., Any]:
    """Return a function that makes the optimizer a definition gives in any form.

    Args:
      value: a function, an object of Keras's optimizers or the name of one.
      label: what messages call it.

    Raises:
      UsageError: it is none of these.
    """
    from elasticdl.model.keras_api import keras, optimizer_classes

    if isinstance(value, str):
        try:
            value = keras.optimizers.get(value)
        except ValueError:
            raise UsageError(
                f"{label}: Keras has no optimizer '{value}'; give one such as 'adam' or 'sgd'"
            ) from None
    if isinstance(value, optimizer_classes):
        given = value

        def make(learning_rate: float | None = None) -> Any:
            if learning_rate is not None:
                given.learning_rate = learning_rate
            return given

        return make
    if not callable(value):
        raise UsageError(f"{label}: is {kind_of(value)}; give a function that returns an optimizer")
    return value


@contextmanager
def honoring_lr() -> Iterator[None]:
    """Let Keras's optimizers take ``lr`` for ``learning_rate`` inside the block, as they once did.

    Keras 3 refuses the name; tf_keras warns and trains with the default. Inside the lock that
    `ModelZoo.importable` holds.
    """
    from elasticdl.model.keras_api import keras

    classes = [each for each in _subclasses(keras.optimizers.Optimizer) if "__init__" in vars(each)]
    originals = [vars(each)["__init__"] for each in classes]
    for each, initialize in zip(classes, originals, strict=True):
        setattr(each, "__init__", _taking_lr(initialize))  # noqa: B010
    try:
        yield
    finally:
        for each, initialize in zip(classes, originals, strict=True):
            setattr(each, "__init__", initialize)  # noqa: B010


def _taking_lr(initialize: Callable[..., None]) -> Callable[..., None]:
    if "lr" in inspect.signature(initialize).parameters:
        return initialize  # a user's own class

    @functools.wraps(initialize)
    def taking(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        if "lr" in kwargs and "learning_rate" not in kwargs and not args:
            kwargs["learning_rate"] = kwargs.pop("lr")
        initialize(optimizer, *args, **kwargs)

    return taking


def _subclasses(kind: type) -> set[type]:
    found: set[type] = {kind}
    subclasses: list[type] = kind.__subclasses__()
    for each in subclasses:
        found |= _subclasses(each)
    return found


def old_optimizer(error: AttributeError, label: str) -> Exception:
    """Return the error that says what became of tf.train's optimizers, or the error itself."""
    match = _OLD_OPTIMIZER.search(str(error))
    if match is None:
        return error
    old = match.group(1)
    new = _NEW_NAMES.get(old, old.removesuffix("Optimizer"))
    return UsageError(
        f"{label}: uses tf.train.{old}, which TensorFlow 2 does not have; "
        f"use tf.keras.optimizers.{new}"
    )
