"""A model's definition as functions by role: calls them, and checks what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from elasticdl.data.separators import separator_hint
from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.contracts.calling import (
    call_by_names,
    kind_of,
    needs_no_arguments,
    without_shuffling,
)
from elasticdl.model.contracts.class_weights import parse_class_weight
from elasticdl.model.contracts.compiled import recorded_compiling
from elasticdl.model.contracts.losses import LossForm, compute_loss
from elasticdl.model.contracts.metric_forms import MetricForms
from elasticdl.model.contracts.optimizers import honoring_lr, old_optimizer, optimizer_maker
from elasticdl.model.keras_hints import of_other_keras
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.model.user_code import user_code
from elasticdl.model.zoo import ModelZoo

if TYPE_CHECKING:
    import tensorflow as tf

    from elasticdl.model.keras_api import keras

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


@dataclass(frozen=True)
class DataMetadata:
    """What is known of the data's columns; given to ``feed`` as its third argument.

    Attributes:
      column_names: of a table; empty for records that tell themselves what they have.
      column_dtypes: by name, as `tf.as_dtype` takes them.
    """

    column_names: Sequence[str] = ()
    column_dtypes: Mapping[str, str] = field(default_factory=dict)


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
      owners: the user's objects they belong to: a spec, a class, a module. ``loss_weights`` and
        ``class_weight`` are each of the first that has them.
      as_keras: whether a loss takes labels first and may return one number per record.
      hints: by role, what to do where the definition has nothing for it.
      compiled: what the model was compiled with on import.
    """

    def __init__(
        self,
        source: ModelSource,
        mode: Mode,
        zoo: ModelZoo,
        functions: Mapping[Role, UserFunction],
        owners: Sequence[Any],
        as_keras: bool = False,
        hints: Mapping[Role, str] | None = None,
        compiled: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self.mode = mode
        self.owner = owners[0]
        names = {"bytes": "string"}
        columns = {each.name: names.get(each.kind, each.kind) for each in source.schema}
        self.metadata = DataMetadata(tuple(columns), columns)
        self._zoo = zoo
        self._functions = functions
        # Of the model that was created last: what it calls its outputs, and is compiled with.
        self._model_outputs: list[str] = []
        self._compiled_on_import = compiled or {}
        self._compiled: Mapping[str, Any] = self._compiled_on_import
        self._as_keras = as_keras
        self._hints = hints or {}
        self._loss_weights = _first_of(owners, "loss_weights")
        self._metric_forms = MetricForms(self.function("metrics"))
        self._given_metrics: Any = None
        self.class_weight: Mapping[int, float] | None = None
        for_classes = source.class_weight or _first_of(owners, "class_weight")
        if for_classes is not None and mode is Mode.TRAINING:
            self.class_weight = parse_class_weight(for_classes, "class_weight")

    def function(self, role: Role) -> str:
        """Return what messages call the function of a role."""
        found = self._functions.get(role)
        if found is None and self._compiled.get(role) is not None:
            return f"the {role} that '{self.source.model_def}' is compiled with"
        return found.label if found is not None else f"{role} of '{self.source.model_def}'"

    def create_model(self) -> keras.Model:
        """Return a new Keras model."""
        from elasticdl.model.keras_api import keras

        with self._users("model"), honoring_lr(), recorded_compiling() as compiled:
            model = self._value("model")()
        if not isinstance(model, keras.Model):
            raise self._wrong("model", model, "return a keras.Model")
        self._model_outputs = list(getattr(model, "output_names", None) or [])
        on_import = self._zoo.compiled.get(id(model), self._compiled_on_import)
        self._compiled = compiled.get(id(model), on_import)
        if self._compiled.get("weighted_metrics") and "metrics" not in self._functions:
            raise UsageError(
                f"{self.function('model')}: compiled with weighted_metrics, which are not "
                "supported; compile it with metrics, or define the metrics beside the model"
            )
        return model

    def create_optimizer(self) -> keras.optimizers.Optimizer:
        """Return the optimizer, with the learning rate that ``--params`` may have given."""
        from elasticdl.model.keras_api import optimizer_classes

        with self._users("optimizer"), honoring_lr():
            try:
                optimizer = optimizer_maker(self._value("optimizer"), self.function("optimizer"))()
            except AttributeError as error:
                raise old_optimizer(error, self.function("optimizer")) from error
        if not isinstance(optimizer, optimizer_classes):
            raise self._wrong(
                "optimizer",
                optimizer,
                "return one of tf.keras.optimizers, such as tf.keras.optimizers.SGD",
            )
        return optimizer

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss: a model whose class trains by itself may have none."""
        return self._has("loss")

    def loss(self, outputs: Any, labels: Any, sample_weights: Any = None) -> tf.Tensor:
        """Return the loss of a minibatch; callable while a function is traced."""
        weights = self._loss_weights
        form = LossForm(
            self.function("loss"),
            self._as_keras,
            self._model_outputs,
            self._compiled.get("loss_weights") if weights is None else weights,
            is_compiled="loss" not in self._functions,
        )
        with self._users("loss"):
            return compute_loss(self._value("loss"), outputs, labels, sample_weights, form)

    def metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> dict[str, Any]:
        """Return scalar tensors and Keras metrics by name."""
        if not self._has("metrics"):
            return {}
        with self._users("metrics"):
            given = self._value("metrics")
            if inspect.isroutine(given) and needs_no_arguments(given):
                # Called once: what it makes is kept, and measured from its initial state.
                if self._given_metrics is None:
                    self._given_metrics = given()
                given = self._given_metrics
            elif callable(given):
                arguments = {"mode": mode, "outputs": outputs, "labels": labels}
                given = call_by_names(given, {**arguments, "predictions": predictions})
            is_compiled = "metrics" not in self._functions
            return self._metric_forms.values(
                given, outputs, labels, self._model_outputs, is_compiled
            )

    def dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        """Map serialized records to elements of one record each."""
        import tensorflow as tf

        # Predictions stand in the order of the input.
        ordered = without_shuffling() if mode is Mode.PREDICTION else nullcontext()
        try:
            with self._users("dataset"), ordered:
                arguments = {"dataset": dataset, "mode": mode, "metadata": self.metadata}
                function = self._value("dataset")
                if not tf.executing_eagerly():
                    autograph = tf.__internal__.autograph
                    function = autograph.tf_convert(function, autograph.control_status_ctx())
                mapped = call_by_names(function, arguments)
        except UserCodeError as error:
            hint = separator_hint([column.name for column in self.source.schema])
            if not hint:
                raise
            raise type(error)(f"{error}{hint}", error.traceback_text) from error
        if not isinstance(mapped, tf.data.Dataset):
            raise self._wrong("dataset", mapped, "return a tf.data.Dataset")
        return mapped

    def callbacks(self) -> list[Any]:
        """Return the Keras callbacks of the training; none by default."""
        from elasticdl.model.keras_api import keras

        if not self._has("callbacks"):
            return []
        callbacks = self._value("callbacks")
        if callable(callbacks):
            with self._users("callbacks"):
                callbacks = callbacks()
        callbacks = [] if callbacks is None else callbacks
        if not isinstance(callbacks, list | tuple):
            raise self._wrong("callbacks", callbacks, "return a list of Keras callbacks")
        for each in callbacks:
            if not isinstance(each, keras.callbacks.Callback):
                raise self._wrong("callbacks", each, "return Keras callbacks only", "a list with ")
        return list(callbacks)

    def prediction_outputs_processor(self) -> Any | None:
        """Return a new object with ``process(predictions, worker_id)``, or None."""
        role: Role = "prediction_outputs_processor"
        if role not in self._functions:
            return None
        with self._users(role):
            processor = self._value(role)()
        if processor is not None and not callable(getattr(processor, "process", None)):
            raise self._wrong(
                role, processor, "give a class with process(self, predictions, worker_id)"
            )
        return processor

    def process_predictions(self, worker_id: int) -> Callable[[Any], None] | None:
        """Return a function that gives outputs to a new processor of them; None if there is none.

        Args:
          worker_id: of this process.
        """
        processor = self.prediction_outputs_processor()
        if processor is None:
            return None

        def process(outputs: Any) -> None:
            with self._users("prediction_outputs_processor"):
                processor.process(outputs, worker_id)

        return process

    def custom_data_reader(self) -> Callable[..., Any] | None:
        """Return the function that makes the user's own reader of some data."""
        if "custom_data_reader" not in self._functions:
            return None

        def make(data_origin: str, **options: Any) -> Any:
            with self._users("custom_data_reader"):
                return self._value("custom_data_reader")(data_origin, **options)

        return make

    def _has(self, role: Role) -> bool:
        return role in self._functions or self._compiled.get(role) is not None

    def _value(self, role: Role) -> Any:
        """Return what the definition has for a role, else what the model was compiled with."""
        if role in self._functions:
            return self._functions[role].value
        if self._compiled.get(role) is not None:
            return self._compiled[role]
        hint = self._hints.get(role, f"has no {role}")
        raise UsageError(f"model_def '{self.source.model_def}': {hint}")

    def _wrong(self, role: Role, value: Any, right: str, lead: str = "") -> UsageError:
        other = of_other_keras(value)
        return UsageError(f"{self.function(role)}: returns {lead}{kind_of(value)}; {right}{other}")

    def at_home(self) -> AbstractContextManager[None]:
        return self._zoo.own_policy()

    @contextmanager
    def _users(self, role: Role) -> Iterator[None]:
        """Run a function of the user's: its imports work, its errors are its own."""
        with self._zoo.importable(), user_code(self.function(role)):
            yield


def _first_of(owners: Sequence[Any], name: str) -> Any:
    """Return what the first that has it has under a name; None where nobody has it."""
    found = (getattr(owner, name, None) for owner in owners)
    return next((each for each in found if each is not None), None)
