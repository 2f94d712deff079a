"""A model's definition as functions by role: calls them, and checks what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import (
    call_by_names,
    call_with_outputs_and_labels,
    kind_of,
    without_shuffling,
)
from elasticdl.model.mode import Mode
from elasticdl.model.resolver import resolve
from elasticdl.model.source import ModelSource
from elasticdl.model.user_code import user_code
from elasticdl.model.zoo import ModelZoo

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Role = Literal[
    "model",
    "optimizer",
    "loss",
    "metrics",
    "dataset",
    "callbacks",
    "prediction_outputs_processor",
    "custom_data_reader",
]
# The option that puts another function in a role's place.
OPTIONS: Mapping[str, Role] = {"input_fn": "dataset", "loss": "loss", "optimizer": "optimizer"}
_OLD_OPTIMIZER = re.compile(r"has no attribute '(\w*Optimizer)'")
_NEW_NAMES = {"GradientDescentOptimizer": "SGD", "MomentumOptimizer": "SGD"}


@dataclass(frozen=True)
class UserFunction:
    """What a definition has for a role.

    Attributes:
      value: the function; for some roles an object does as well.
      label: what messages call it, such as ``create_loss of 'mnist.Mnist'``.
    """

    value: Any
    label: str


class Definition:
    """A `Contract` made of functions by role.

    Args:
      source: what names the code.
      mode: what the model is run for.
      zoo: where the functions are from.
      functions: by role; what is not there has none.
      owner: the user's object they belong to: a spec, a class or a module.
    """

    def __init__(
        self,
        source: ModelSource,
        mode: Mode,
        zoo: ModelZoo,
        functions: Mapping[Role, UserFunction],
        owner: Any,
    ) -> None:
        self.source = source
        self.mode = mode
        self._zoo = zoo
        self._functions = functions
        self.owner = owner

    def function(self, role: Role) -> str:
        """Return what messages call the function of a role."""
        found = self._functions.get(role)
        return found.label if found is not None else f"{role} of '{self.source.model_def}'"

    def create_model(self) -> keras.Model:
        """Return a new Keras model."""
        from elasticdl.model.keras_api import keras

        with self._users("model"):
            model = self._value("model")()
        if not isinstance(model, keras.Model):
            raise self._wrong("model", model, "return a keras.Model")
        return model

    def create_optimizer(self) -> keras.optimizers.Optimizer:
        """Return the optimizer, with the learning rate that ``--params`` may have given."""
        from elasticdl.model.keras_api import keras

        with self._users("optimizer"):
            try:
                optimizer = self._value("optimizer")()
            except AttributeError as error:
                raise _old_optimizer(error, self.function("optimizer")) from error
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise self._wrong(
                "optimizer",
                optimizer,
                "return one of tf.keras.optimizers, such as tf.keras.optimizers.SGD",
            )
        return optimizer

    def loss(self, outputs: Any, labels: Any, sample_weights: Any = None) -> tf.Tensor:
        """Return the loss of a minibatch; callable while a function is traced."""
        from elasticdl.model.keras_api import keras

        function = self._value("loss")
        with self._users("loss"):
            if isinstance(function, keras.losses.Loss):
                return function(labels, outputs, sample_weights)
            if sample_weights is not None:
                raise UsageError(
                    f"{self.function('loss')}: does not take sample weights; return an object of "
                    "keras.losses"
                )
            return call_with_outputs_and_labels(function, outputs, labels)

    def metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> dict[str, Any]:
        """Return scalar tensors and Keras metrics by name."""
        if "metrics" not in self._functions:
            return {}
        with self._users("metrics"):
            metrics = call_by_names(
                self._value("metrics"),
                {"mode": mode, "outputs": outputs, "labels": labels, "predictions": predictions},
            )
        if metrics is None:
            return {}
        if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
            raise self._wrong(
                "metrics", metrics, "return a dict of tensors or Keras metrics by name"
            )
        return dict(metrics)

    def dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        """Map serialized records to elements of one record each."""
        import tensorflow as tf

        # Predictions stand in the order of the input.
        ordered = without_shuffling() if mode is Mode.PREDICTION else nullcontext()
        with self._users("dataset"), ordered:
            mapped = call_by_names(self._value("dataset"), {"dataset": dataset, "mode": mode})
        if not isinstance(mapped, tf.data.Dataset):
            raise self._wrong("dataset", mapped, "return a tf.data.Dataset")
        return mapped

    def callbacks(self) -> list[Any]:
        """Return the Keras callbacks of the training; none by default."""
        from elasticdl.model.keras_api import keras

        if "callbacks" not in self._functions:
            return []
        with self._users("callbacks"):
            callbacks = self._value("callbacks")()
        callbacks = [] if callbacks is None else callbacks
        if not isinstance(callbacks, list | tuple):
            raise self._wrong("callbacks", callbacks, "return a list of Keras callbacks")
        for each in callbacks:
            if not isinstance(each, keras.callbacks.Callback):
                raise self._wrong("callbacks", each, "return Keras callbacks only", "a list with ")
        return list(callbacks)

    def prediction_outputs_processor(self) -> Any | None:
        """Return the object whose ``process(predictions, worker_id)`` is given the outputs."""
        if "prediction_outputs_processor" not in self._functions:
            return None
        with self._users("prediction_outputs_processor"):
            processor = self._value("prediction_outputs_processor")()
        if processor is not None and not callable(getattr(processor, "process", None)):
            raise self._wrong(
                "prediction_outputs_processor",
                processor,
                "give a class with process(self, predictions, worker_id)",
            )
        return processor

    def custom_data_reader(self) -> Callable[..., Any] | None:
        """Return the function that makes the user's own reader of some data."""
        if "custom_data_reader" not in self._functions:
            return None

        def make(data_origin: str, **options: Any) -> Any:
            with self._users("custom_data_reader"):
                return self._value("custom_data_reader")(data_origin, **options)

        return make

    def _value(self, role: Role) -> Any:
        found = self._functions.get(role)
        if found is None:
            raise UsageError(f"model_def '{self.source.model_def}': has no {role}")
        return found.value

    def _wrong(self, role: Role, value: Any, right: str, lead: str = "") -> UsageError:
        return UsageError(f"{self.function(role)}: returns {lead}{kind_of(value)}; {right}")

    @contextmanager
    def _users(self, role: Role) -> Iterator[None]:
        """Run a function of the user's: its imports work, its errors are its own."""
        with self._zoo.importable(), user_code(self.function(role)):
            yield


def replacements(source: ModelSource, zoo: ModelZoo) -> dict[Role, UserFunction]:
    """Resolve the functions that options put in the place of a definition's own.

    Raises:
      UsageError: an option names nothing, or no function.
    """
    functions: dict[Role, UserFunction] = {}
    for option, role in OPTIONS.items():
        name = getattr(source, option)
        if name is None:
            continue
        label = f"--{option} function '{name}'"
        if "." not in name:
            # A bare name is a function beside the model.
            name = f"{source.model_def.rpartition('.')[0]}.{name}"
        function = resolve(zoo, name, option).value
        if not callable(function):
            raise UsageError(f"{option} '{name}': is {kind_of(function)}; name a function")
        functions[role] = UserFunction(function, label)
    return functions


def _old_optimizer(error: AttributeError, label: str) -> Exception:
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
