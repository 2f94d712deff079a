"""The names that Keras takes for losses: aliases too, and those whose meaning labels decide."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

_CROSSENTROPIES = ("crossentropy", "ce")
_ALIASES = (
    *("bce", "BCE", "kld", "KLD", "mae", "MAE", "mape", "MAPE", "mse", "MSE", "msle", "MSLE"),
    *("huber_loss", "kullback_leibler_divergence", "logcosh"),
)


def is_crossentropy(name: str) -> bool:
    """Whether a name means the crossentropy that suits the labels; in tf_keras none does."""
    from elasticdl.model.keras_api import IS_LEGACY

    return not IS_LEGACY and name.lower() in _CROSSENTROPIES


def loss_named(name: str) -> Any | None:
    """Return the loss of a name that `keras.losses.get` takes, None for other names."""
    from elasticdl.model.keras_api import keras

    try:
        found = keras.losses.get(name)
    except (TypeError, ValueError):  # of a class that wants arguments; of no loss
        return None
    if isinstance(found, keras.losses.Loss):
        return found if type(found) is not keras.losses.Loss else None
    # tf_keras finds whatever its module has imported.
    if inspect.isfunction(found) and "y_true" in inspect.signature(found).parameters:
        return found
    return None


def nearest_loss(name: str) -> str | None:
    """Return which of the names that Keras takes is most like another one."""
    from elasticdl.model.keras_api import keras

    names = [*dir(keras.losses), *_ALIASES, *_CROSSENTROPIES]
    known = [each for each in names if is_crossentropy(each) or loss_named(each) is not None]
    by_lower = {each.lower(): each for each in reversed(known)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None
