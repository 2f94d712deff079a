"""What a processor of predictions may derive from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class BasePredictionOutputsProcessor(ABC):
    """Sees every minibatch of predictions in the worker that made it.

    If a worker dies, its task's minibatches are made, and seen, once more: at least once.
    """

    @abstractmethod
    def process(self, predictions: Any, worker_id: int) -> None:
        """Take one minibatch's predictions.

        Args:
          predictions: what the model returned.
          worker_id: index of the worker.
        """
