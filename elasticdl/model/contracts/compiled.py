"""What a model was compiled with, for definitions that give no loss or optimizer of their own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_compiling(
    recorded: dict[int, dict[str, Any]] | None = None,
) -> Iterator[dict[int, dict[str, Any]]]:
    """Yield the arguments of `keras.Model.compile`, by the model's id, as they are given inside.

    The model is among its arguments, so that no other gets its id. Inside the lock that
    `ModelZoo.importable` holds.

    Args:
      recorded: what to add them to; a new dict by default.
    """
    from elasticdl.model.keras_api import keras

    given = {} if recorded is None else recorded
    own = vars(keras.Model).get("compile")
    original = keras.Model.compile
    signature = inspect.signature(original)

    def compile_and_record(model: Any, *args: Any, **kwargs: Any) -> Any:
        given[id(model)] = dict(signature.bind(model, *args, **kwargs).arguments)
        return original(model, *args, **kwargs)

    keras.Model.compile = compile_and_record
    try:
        yield given
    finally:
        if own is None:
            del keras.Model.compile
        else:
            keras.Model.compile = own
