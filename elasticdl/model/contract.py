"""What the system asks of a model's definition, and the definitions it can ask."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from elasticdl.errors import UsageError
from elasticdl.model.mode import Mode
from elasticdl.model.params import parse_params, split_params
from elasticdl.model.resolver import resolve
from elasticdl.model.source import ModelSource
from elasticdl.model.spec import ElasticDLSpec
from elasticdl.model.user_code import user_code
from elasticdl.model.zoo import ModelZoo

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_OLD_OPTIMIZER = re.compile(r"has no attribute '(\w*Optimizer)'")
_LABELS = {"labels", "label", "y_true", "targets", "target"}
_OUTPUTS = {"outputs", "output", "predictions", "y_pred", "logits"}
# What a context says where nothing is running.
_NO_JOB = {"job_name": "", "role": "", "index": 0, "incarnation": 0, "master_address": ""}
_NEW_NAMES = {"GradientDescentOptimizer": "SGD", "MomentumOptimizer": "SGD"}


class Contract(Protocol):
    """A model's definition, whichever way the user wrote it.

    What the user's code raises comes out as `UserCodeError`, a result of the wrong kind as
    `UsageError`. Not thread-safe.
    """

    source: ModelSource
    mode: Mode

    def create_model(self) -> keras.Model:
        """Return a new Keras model."""
        ...

    def create_optimizer(self) -> keras.optimizers.Optimizer:
        """Return the optimizer, with the learning rate that ``--params`` may have given."""
        ...

    def loss(self, outputs: Any, labels: Any) -> tf.Tensor:
        """Return the loss of a minibatch; callable while a function is traced."""
        ...

    def metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> dict[str, Any]:
        """Return scalar tensors and Keras metrics by name."""
        ...

    def dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        """Map serialized records to elements of one record each."""
        ...


def load_contract(
    source: ModelSource, mode: Mode, context: Mapping[str, Any] | None = None
) -> Contract:
    """Resolve a model's definition and construct it with its parameters.

    Args:
      source: what names the code; `ModelSource.of_job` makes it from a job.
      mode: what the model is run for.
      context: given to the definition: job name, role, index, incarnation, master address; what is
        not known is empty or 0.

    Raises:
      UsageError: a name is wrong, or a parameter is.
      UserCodeError: the module or the constructor raises.
    """
    zoo = ModelZoo(source.model_zoo)
    found = resolve(zoo, source.model_def).value
    if not (inspect.isclass(found) and issubclass(found, ElasticDLSpec)):
        raise UsageError(
            f"model_def '{source.model_def}': is {_kind(found)}; "
            "name a class derived from elasticdl.ElasticDLSpec"
        )
    return _SpecContract(source, mode, zoo, found, dict(context or {}))


class _SpecContract:
    """The contract of an `ElasticDLSpec`."""

    def __init__(
        self,
        source: ModelSource,
        mode: Mode,
        zoo: ModelZoo,
        spec_class: type[ElasticDLSpec],
        context: dict[str, Any],
    ) -> None:
        self.source = source
        self.mode = mode
        self._zoo = zoo
        self._class = spec_class
        needed = ["create_model"]
        if source.input_fn is None:
            needed.append("create_dataset")
        if source.loss is None and mode is not Mode.PREDICTION:
            needed.append("create_loss")
        if source.optimizer is None and mode is Mode.TRAINING:
            needed.append("create_optimizer")
        for name in needed:
            if getattr(spec_class, name) is getattr(ElasticDLSpec, name):
                raise UsageError(
                    f"model_def '{source.model_def}': class '{spec_class.__name__}' has no {name}; "
                    "define it"
                )
        self._input_fn = self._override("input_fn", source.input_fn)
        self._loss = self._override("loss", source.loss)
        self._optimizer = self._override("optimizer", source.optimizer)
        for_constructor, self._optimizer_arguments = split_params(
            parse_params(source.params),
            source.model_def,
            spec_class,
            self._optimizer or spec_class.create_optimizer,
        )
        if _takes_context(spec_class):
            for_constructor["context"] = {**_NO_JOB, **context, "mode": mode}
        with self._users(f"the constructor of '{source.model_def}'"):
            self._spec = spec_class(**for_constructor)

    def create_model(self) -> keras.Model:
        import keras

        with self._users(self.source.function("create_model")):
            model = self._spec.create_model()
        if not isinstance(model, keras.Model):
            raise UsageError(
                f"model_def '{self.source.model_def}': create_model returns {_kind(model)}; "
                "return a keras.Model"
            )
        return model

    def create_optimizer(self) -> keras.optimizers.Optimizer:
        import keras

        function = self._optimizer or self._spec.create_optimizer
        with self._users(self.source.function("create_optimizer")):
            try:
                optimizer = function(**self._optimizer_arguments)
            except AttributeError as error:
                raise _old_optimizer(error, self.source.model_def) from error
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise UsageError(
                f"{self.source.function('create_optimizer')}: returns "
                f"{_kind(optimizer)}; return one of tf.keras.optimizers, such as "
                "tf.keras.optimizers.SGD"
            )
        return optimizer

    def loss(self, outputs: Any, labels: Any) -> tf.Tensor:
        with self._users(self.source.function("create_loss")):
            return _call_loss(self._loss or self._spec.create_loss, outputs, labels)

    def metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> dict[str, Any]:
        with self._users(self.source.function("create_metrics")):
            metrics = _call(
                self._spec.create_metrics,
                {"mode": mode, "outputs": outputs, "labels": labels, "predictions": predictions},
            )
        if metrics is None:
            return {}
        if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
            raise UsageError(
                f"model_def '{self.source.model_def}': create_metrics returns {_kind(metrics)}; "
                "return a dict of tensors or Keras metrics by name"
            )
        return dict(metrics)

    def dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        import tensorflow as tf

        function = self._input_fn or self._spec.create_dataset
        name = self.source.function("create_dataset")
        # Predictions stand in the order of the input.
        ordered = _without_shuffling() if mode is Mode.PREDICTION else nullcontext()
        with self._users(name), ordered:
            mapped = _call(function, {"dataset": dataset, "mode": mode})
        if not isinstance(mapped, tf.data.Dataset):
            raise UsageError(f"{name}: returns {_kind(mapped)}; return a tf.data.Dataset")
        return mapped

    def _override(self, option: str, name: str | None) -> Callable[..., Any] | None:
        """Resolve a function that replaces the definition's own."""
        if name is None:
            return None
        if "." not in name:
            # A bare name is a function beside the model.
            name = f"{self.source.model_def.rpartition('.')[0]}.{name}"
        function = resolve(self._zoo, name, option).value
        if not callable(function):
            raise UsageError(f"{option} '{name}': is {_kind(function)}; name a function")
        return function

    @contextmanager
    def _users(self, function: str) -> Iterator[None]:
        """Run a function of the user's: its imports work, its errors are its own."""
        with self._zoo.importable(), user_code(function):
            yield


def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a user's function by the names it gives its parameters, in whatever order they stand.

    Where a name is not known, all are passed in the order of `arguments`. Further parameters keep
    their defaults.
    """
    names = [parameter.name for parameter in _named_parameters(function)]
    if set(names[: len(arguments)]) == set(arguments):
        return function(**arguments)
    return function(*arguments.values())


def _call_loss(function: Callable[..., Any], outputs: Any, labels: Any) -> Any:
    """Call a user's loss: (outputs, labels) by position, unless its first two names say otherwise.

    Keras's own losses are called in Keras's order.
    """
    import keras

    if isinstance(function, keras.losses.Loss):
        return function(labels, outputs)
    two = _named_parameters(function)[:2]
    meant = [
        "labels" if p.name in _LABELS else "outputs" if p.name in _OUTPUTS else "" for p in two
    ]
    if len(two) < 2 or meant[0] == meant[1]:
        return function(outputs, labels)
    # One known name tells what the other parameter is.
    first_is_labels = meant[0] == "labels" or meant[1] == "outputs"
    values = (labels, outputs) if first_is_labels else (outputs, labels)
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in two):
        return function(**{each.name: value for each, value in zip(two, values, strict=True)})
    return function(*values)


def _named_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in function
        return []
    return [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _takes_context(spec_class: type[ElasticDLSpec]) -> bool:
    parameters = inspect.signature(spec_class).parameters.values()
    return any(each.name == "context" or each.kind is each.VAR_KEYWORD for each in parameters)


@contextmanager
def _without_shuffling() -> Iterator[None]:
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


def _old_optimizer(error: AttributeError, model_def: str) -> Exception:
    """Return the error that says what became of tf.train's optimizers, or the error itself."""
    match = _OLD_OPTIMIZER.search(str(error))
    if match is None:
        return error
    old = match.group(1)
    new = _NEW_NAMES.get(old, old.removesuffix("Optimizer"))
    return UsageError(
        f"model_def '{model_def}': create_optimizer uses tf.train.{old}, which TensorFlow 2 does "
        f"not have; use tf.keras.optimizers.{new}"
    )


def _kind(value: Any) -> str:
    if inspect.isclass(value):
        return f"class '{value.__name__}'"
    if inspect.isfunction(value):
        return f"function '{value.__name__}'"
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
