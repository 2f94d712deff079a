"""Callbacks of ElasticDL's own, for models that count steps and not epochs.

They stand in the list that `create_callbacks` (or `callbacks`) returns, beside Keras's.
"""

from __future__ import annotations

from collections.abc import Callable

from elasticdl.model.keras_api import keras


class MaxStepsStopping(keras.callbacks.Callback):
    """Ends training after a number of minibatches, exactly, as ``--max_steps`` does.

    Args:
      max_steps: of all workers together, at least 1.
    """

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = int(max_steps)
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}; it must be at least 1")


class LearningRateScheduler(keras.callbacks.Callback):
    """Decides the learning rate of every update by how many there were before it.

    Args:
      schedule: takes the number of updates so far, from 0, and returns the rate, a float.
    """

    def __init__(self, schedule: Callable[[int], float]) -> None:
        super().__init__()
        self.schedule = schedule


class SavedModelExporter(keras.callbacks.Callback):
    """Does nothing: every trained model has a SavedModel. For model files of the old ElasticDL."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__()
