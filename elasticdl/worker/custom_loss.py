"""The loss that a model class computes itself, by a `compute_loss` of its own.

It runs as the user wrote it while a function is traced. Keras's own, which it may call, gives the
loss of the definition.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.keras_api import IS_LEGACY, keras
from elasticdl.model.user_code import user_code

_ABSENT = object()


class CustomLoss:
    """Computes the loss of an evaluation as `model.evaluate` does. Used while one is traced.

    Args:
      model: of a class that overrides compute_loss.
      contract: gives what Keras's own `compute_loss` computes.
    """

    def __init__(self, model: keras.Model, contract: Contract) -> None:
        self._model = model
        self._contract = contract
        self._name = f"compute_loss of '{contract.source.model_def}'"

    def of(self, features: Any, labels: Any, outputs: Any, sample_weights: Any) -> tf.Tensor:
        """Return the loss of a minibatch, float32, a scalar; all that is added is in it.

        Args:
          features: of the minibatch.
          labels: likewise; None for what is not there.
          outputs: what the model has just returned for them.
          sample_weights: likewise.

        Raises:
          UsageError: it gives no loss.
          UserCodeError: it raises.
        """
        compute_loss = self._model.compute_loss
        further = {}
        if not IS_LEGACY and "training" in inspect.signature(compute_loss).parameters:
            further["training"] = False
        with user_code(self._name):
            with definition_losses(self._model, self._contract, list, self._name) as computed:
                loss = compute_loss(features, labels, outputs, sample_weights, **further)
            if self._shows_compiled(computed):
                loss = tf.add_n(computed.losses) / len(computed.losses)
        try:
            loss = tf.convert_to_tensor(loss)
        except (TypeError, ValueError):
            loss = None
        if loss is None or not loss.dtype.is_floating:
            raise UsageError(f"{self._name}: returns no float tensor; return the minibatch's loss")
        return tf.reduce_mean(tf.cast(loss, tf.float32))

    def _shows_compiled(self, computed: DefinitionLosses) -> bool:
        """Whether `evaluate` shows the losses of the definition, and not what was made of them.

        In tf_keras it does, unless a metric of the model's own is called loss.
        """
        if not IS_LEGACY or not computed.losses:
            return False
        return all(metric.name != "loss" for metric in self._model.metrics)


@dataclass
class DefinitionLosses:
    """The losses that a method of a model asked Keras for.

    Attributes:
      losses: float32 scalars, in the order of the calls.
      has_penalties: whether the regularization of rows is in them.
    """

    losses: list[tf.Tensor] = field(default_factory=list)
    has_penalties: bool = False


@contextmanager
def definition_losses(
    model: keras.Model,
    contract: Contract,
    row_penalties: Callable[[], list[tf.Tensor]],
    label: str,
) -> Iterator[DefinitionLosses]:
    """Let Keras's own losses of a model be those of its definition inside the block.

    Args:
      model: the one whose methods run.
      contract: its definition.
      row_penalties: computes the regularization of rows, which `compute_loss` adds.
      label: what messages call what runs.
    """
    computed = DefinitionLosses()

    def added(
        y: Any, y_pred: Any, sample_weight: Any, penalties: list[tf.Tensor] | None
    ) -> tf.Tensor:
        loss = tf.cast(contract.loss(y_pred, y, sample_weight), tf.float32)
        total = tf.add_n([loss, *(tf.cast(each, tf.float32) for each in penalties or [])])
        computed.losses.append(total)
        return total

    def compute_loss(
        of: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if of is not model:
            raise UsageError(
                f"{label}: computes the compiled loss of another model; compute it itself"
            )
        computed.has_penalties = True
        return added(y, y_pred, sample_weight, [*model.losses, *row_penalties()])

    def compiled_loss(of: Any) -> Callable[..., Any]:
        def loss(
            y: Any, y_pred: Any, sample_weight: Any = None, regularization_losses: Any = None
        ) -> Any:
            return added(y, y_pred, sample_weight, regularization_losses)

        return loss

    def no_metrics(of: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    with ExitStack() as patches:
        for name, value in [
            ("compute_loss", compute_loss),
            ("compiled_loss", property(compiled_loss)),
            ("compute_metrics", no_metrics),
            ("compiled_metrics", property(lambda of: _NoMetrics())),
        ]:
            patches.enter_context(replaced(keras.Model, name, value))
        yield computed


class _NoMetrics:
    """Stands for compiled metrics where nobody reads them."""

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let a class have another attribute inside the block; this process traces one step a time."""
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
