"""Contract 2: a Keras model class that brings its own input, loss and optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.definition import Role, UserFunction

_METHODS: Mapping[Role, str] = {
    "dataset": "default_input",
    "loss": "default_loss",
    "optimizer": "default_optimizer",
    "metrics": "default_metrics",
    "callbacks": "default_callbacks",
}


class ModelClass:
    """A class derived from keras.Model, and its functions by role.

    Instance methods are called on the model that was created last. Where there is none yet, as when
    only data is read, one is constructed for them, and it is never built.

    Args:
      model_class: the user's.
      model_def: how the user named it.

    Attributes:
      arguments: of the constructor.
    """

    def __init__(self, model_class: type, model_def: str) -> None:
        self.arguments: dict[str, Any] = {}
        self._class = model_class
        self._model_def = model_def
        self._latest: Any = None

    @property
    def signature(self) -> Callable[..., Any]:
        """A function with the constructor's parameters; not to be called."""
        from elasticdl.model.keras_api import keras

        if self._class.__init__ is keras.Model.__init__:  # type: ignore[misc]
            return lambda: None
        return _without_self(self._class.__init__)  # type: ignore[misc]

    def create(self) -> Any:
        """Return a new model."""
        self._latest = self._class(**self.arguments)
        return self._latest

    def functions(self) -> dict[Role, UserFunction]:
        """Return what the class defines, by role.

        Raises:
          UsageError: something of these names is no function.
        """
        found: dict[Role, UserFunction] = {}
        for role, name in _METHODS.items():
            defined = inspect.getattr_static(self._class, name, None)
            if defined is None:
                continue
            if isinstance(defined, staticmethod | classmethod):
                value = getattr(self._class, name)
            elif not inspect.isfunction(defined):
                raise UsageError(
                    f"model_def '{self._model_def}': '{name}' is no method; make it one, or a "
                    "static method"
                )
            elif next(iter(inspect.signature(defined).parameters), None) == "self":
                value = self._bound_later(name, defined)
            else:
                value = defined  # a static method that does not say so
            found[role] = UserFunction(value, f"{name} of '{self._model_def}'")
        return found

    def _bound_later(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            model = self._latest if self._latest is not None else self.create()
            return getattr(model, name)(*args, **kwargs)

        method.__signature__ = inspect.signature(_without_self(function))  # type: ignore[attr-defined]
        return method


def _without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that has another's parameters but the first; not to be called."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not parameters[0].VAR_POSITIONAL:
        parameters = parameters[1:]

    def described(*args: Any, **kwargs: Any) -> Any:
        return None

    described.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return described
