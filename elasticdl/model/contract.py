"""What the system asks of a model's definition, whichever way the user wrote it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from elasticdl.model.contracts.definition import Role
from elasticdl.model.contracts.elasticdl_spec import define_by_spec
from elasticdl.model.contracts.functions import (
    check_is_model,
    define_by_module,
    model_of_module,
)
from elasticdl.model.mode import Mode
from elasticdl.model.resolver import resolve
from elasticdl.model.source import ModelSource
from elasticdl.model.spec import ElasticDLSpec
from elasticdl.model.zoo import ModelZoo

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class Contract(Protocol):
    """A model's definition.

    What the user's code raises comes out as `UserCodeError`, a result of the wrong kind as
    `UsageError`. Not thread-safe.
    """

    source: ModelSource
    mode: Mode
    class_weight: Mapping[int, float] | None

    def function(self, role: Role) -> str:
        """Return what messages call the function of a role: "create_loss of 'mnist.Mnist'"."""
        ...

    def at_home(self) -> AbstractContextManager[None]:
        """Let Keras's global dtype policy be the one that the model's code has set."""
        ...

    def create_model(self) -> keras.Model:
        """Return a new Keras model."""
        ...

    def create_optimizer(self) -> keras.optimizers.Optimizer:
        """Return the optimizer, with the learning rate that ``--params`` may have given."""
        ...

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss: a model whose class trains by itself may have none."""
        ...

    def loss(self, outputs: Any, labels: Any, sample_weights: Any = None) -> tf.Tensor:
        """Return the loss of a minibatch; callable while a function is traced."""
        ...

    def metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> dict[str, Any]:
        """Return scalar tensors and Keras metrics by name."""
        ...

    def dataset(self, dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        """Map serialized records to elements of one record each; batches of columns to batches."""
        ...

    def callbacks(self) -> list[Any]:
        """Return the Keras callbacks of the training; none by default."""
        ...

    def prediction_outputs_processor(self) -> Any | None:
        """Return a new object with ``process(predictions, worker_id)``, or None."""
        ...

    def process_predictions(self, worker_id: int) -> Callable[[Any], None] | None:
        """Return what gives outputs to a new processor of them; None if there is none."""
        ...

    def custom_data_reader(self) -> Callable[..., Any] | None:
        """Return the function that makes the user's own reader, or None.

        It is called with the data's origin (the value of an option such as ``--data``), and with
        ``records_per_task`` where it takes it.
        """
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
    from elasticdl.model.keras_api import fresh_names, keras

    zoo = ModelZoo(source.model_zoo)
    # What is made on import, and by the definition, is equal wherever it is made.
    keras.utils.set_random_seed(source.seed % (1 << 32))
    with fresh_names():
        resolved = resolve(zoo, source.model_def, modules=True)
        found, beside = resolved.value, source.model_def.rpartition(".")[0]
        if isinstance(found, ModuleType):
            found, beside = model_of_module(found, source.model_def), resolved.module_name
        if inspect.isclass(found) and issubclass(found, ElasticDLSpec):
            return define_by_spec(source, mode, zoo, found, dict(context or {}), beside)
        check_is_model(found, source.model_def)
        return define_by_module(source, mode, zoo, resolved.module, found, beside)
