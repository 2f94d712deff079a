"""The class people derive their model's definition from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from elasticdl.model.mode import Mode


class ElasticDLSpec:
    """Defines a model and everything around it; derive from it and override its methods.

    The constructor may take parameters of its own beside ``context``; ``--params`` fills them.

    Attributes:
      context: about this process: ``job_name``, ``role``, ``index``, ``incarnation``,
        ``master_address``, ``mode``; empty where there is no job.
    """

    context: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, context: Mapping[str, Any] | None = None) -> None:
        self.context = MappingProxyType(dict(context or {}))

    def create_model(self) -> Any:
        """Return a Keras model: functional, Sequential or subclassed."""
        raise NotImplementedError

    def create_optimizer(self) -> Any:
        """Return a Keras optimizer. May take ``lr`` or ``learning_rate`` from ``--params``."""
        raise NotImplementedError

    def create_loss(self, outputs: Any, labels: Any) -> Any:
        """Return the minibatch's loss, a scalar tensor.

        Args:
          outputs: what the model returned.
          labels: second of what the dataset yields.
        """
        raise NotImplementedError

    def create_metrics(self, mode: Mode, outputs: Any, labels: Any, predictions: Any) -> Any:
        """Return a dict of scalar tensors (means over the minibatch) or Keras metrics by name.

        A Keras metric may come updated, or not: then it is updated with (labels, predictions).

        Args:
          mode: TRAINING or EVALUATION.
          outputs: what the model returned.
          labels: second of what the dataset yields.
          predictions: the model's predictions, which are its outputs.
        """
        return {}

    def create_callbacks(self) -> list[Any]:
        """Return the Keras callbacks of the training."""
        return []

    def create_prediction_outputs_processor(self) -> Any:
        """Return an object whose ``process(predictions, worker_id)`` is given every output."""
        return None

    def create_dataset(self, dataset: Any, mode: Mode) -> Any:
        """Return a dataset of (features, labels), one record each; features alone in PREDICTION.

        Minibatches are made of what this returns; it may map, filter and shuffle.

        Args:
          dataset: ``tf.data.Dataset`` of serialized records, scalar strings.
          mode: what the data is for.
        """
        raise NotImplementedError
