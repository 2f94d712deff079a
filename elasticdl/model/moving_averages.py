"""Which of a model's variables are moving averages, and how fast these forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from elasticdl.model.keras_api import keras


class MovingAverages:
    """The statistics of a model's batch normalizations.

    Args:
      model: built.
    """

    def __init__(self, model: keras.Model) -> None:
        layers = model._flatten_layers(include_self=False, recursive=True)
        found = [one for one in layers if isinstance(one, keras.layers.BatchNormalization)]
        self._layers = list({id(one): one for one in found if one.trainable}.values())
        self._num_calls: Counter[int] = Counter()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Note inside the block, in which the model is called once, how often each layer is."""
        for layer in self._layers:
            # Not by setattr, by which Keras would track it as the layer's own.
            vars(layer)["call"] = self._counting(id(layer), layer.call)
        try:
            yield
        finally:
            for layer in self._layers:
                del vars(layer)["call"]

    def _counting(self, key: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._num_calls[key] += 1
            return call(*args, **kwargs)

        return counted

    def momentum(self, variable: keras.Variable) -> float:
        """Return the share of its value that a variable keeps in a step: 1 for no moving average.

        A layer that the model calls k times updates its statistics k times in a step.
        """
        for layer in self._layers:
            if variable is layer.moving_mean or variable is layer.moving_variance:
                return float(layer.momentum) ** max(1, self._num_calls[id(layer)])
        return 1.0
