"""The user's Keras optimizer, as the parameter servers need it: never applied, only asked."""

from __future__ import annotations

import dataclasses
import inspect
import re
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.keras_api import keras, optimizer_config, tf_variable
from elasticdl.model.user_code import user_code
from elasticdl.ps.keras_optimizers import from_keras_config, supported_optimizers
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.rate_table import BLOCK_STEPS

_KERAS = {"keras", "tf_keras"}


class UserOptimizer:
    """An optimizer and, where its learning rate is a schedule, the schedule. Thread-safe.

    Args:
      optimizer: of Keras 3 or tf_keras; its iterations are ours to set from now on.

    Attributes:
      config: how the parameter servers apply it.

    Raises:
      UsageError: names what of it is not supported, and what to use instead.
      UserCodeError: its schedule raises.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        name = type(optimizer).__name__
        if type(optimizer).__module__.partition(".")[0] not in _KERAS:
            raise UsageError(
                f"optimizer '{name}': is a class of your own, which the parameter server cannot "
                f"run; use {supported_optimizers()}"
            )
        self._optimizer = optimizer
        self._schedule = learning_rate_schedule(optimizer)
        self._lock = threading.Lock()
        self._blocks: dict[int, np.ndarray] = {}
        config = from_keras_config(_keras_config(optimizer, self._schedule), name)
        if self._schedule is not None:
            first = float(self.rates(0)[0])
            config = dataclasses.replace(config, learning_rate=max(0.0, first))
        self.config: OptimizerConfig = config

    def rates(self, block: int) -> np.ndarray:
        """Return the learning rates of steps 1000 block to 1000 block + 999, float32 ``[1000]``.

        Computed in float32 as Keras does, by the optimizer's own iterations, once for each block.

        Raises:
          UsageError: a rate is not a finite number.
          UserCodeError: the schedule raises.
        """
        with self._lock:
            if block not in self._blocks:
                self._blocks[block] = self._tabulate(block)
            return self._blocks[block]

    def decays(self, variable: keras.Variable) -> bool:
        """Whether the optimizer's weight decay applies to a variable of the model."""
        if not self.config.weight_decay:  # Old optimizers of tf_keras know of none.
            return True
        return bool(self._optimizer._use_weight_decay(tf_variable(variable)))

    def decays_table(self, name: str) -> bool:
        """Whether it applies to an embedding table, by the name its variable has in Keras."""
        words = getattr(self._optimizer, "_exclude_from_weight_decay_names", None) or []
        pattern = getattr(self._optimizer, "_exclude_from_weight_decay_pattern", None)
        patterns = [*words, *([pattern] if pattern is not None else [])]
        return not any(re.search(each, f"{name}/embeddings") for each in patterns)

    def _tabulate(self, block: int) -> np.ndarray:
        name = _schedule_name(self._schedule)
        steps = range(block * BLOCK_STEPS, (block + 1) * BLOCK_STEPS)
        with user_code(f"the learning-rate schedule '{name}'"):
            try:
                rates = self._in_graph(steps).numpy()
            except Exception:
                # A schedule that decides in Python, by the step's value.
                rates = np.array([float(self._rate_at(step)) for step in steps], np.float32)
        if not np.isfinite(rates).all():
            step = int(np.flatnonzero(~np.isfinite(rates))[0])
            raise UsageError(
                f"learning-rate schedule '{name}': gives {rates[step]} at step {steps[step]}; a "
                "learning rate must be a finite number"
            )
        return rates

    def _in_graph(self, steps: range) -> tf.Tensor:
        """Compute all rates in one call, as a training step would each."""

        def rate(step: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.cast(self._rate_at(step), tf.float32), [])

        return tf.function(
            lambda: tf.map_fn(
                rate,
                tf.range(steps.start, steps.stop, dtype=tf.int64),
                fn_output_signature=tf.TensorSpec([], tf.float32),
                parallel_iterations=1,
            ),
            autograph=False,
        )()

    def _rate_at(self, step: Any) -> Any:
        assert self._schedule is not None
        self._optimizer.iterations.assign(step)
        if _takes_step(self._schedule):
            return self._schedule(self._optimizer.iterations)
        return self._schedule()


def learning_rate_schedule(optimizer: Any) -> Any | None:
    """Return what computes the learning rate, or None where it is a number."""
    held = getattr(optimizer, "_learning_rate", None)
    if held is None:  # of tf_keras's legacy optimizers
        held = getattr(optimizer, "_hyper", {}).get("learning_rate")
    is_number = held is None or tf.is_tensor(held) or isinstance(held, tf.Variable)
    return held if callable(held) and not is_number else None


def _takes_step(schedule: Any) -> bool:
    """Whether a schedule is called with the step; a plain function may take nothing."""
    try:
        parameters = inspect.signature(schedule).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(each.kind is not each.VAR_KEYWORD for each in parameters)


def _schedule_name(schedule: Any) -> str:
    return getattr(schedule, "__name__", None) or type(schedule).__name__


def _keras_config(optimizer: Any, schedule: Any | None) -> dict[str, Any]:
    """Return `get_config()`; a schedule is only named, since it need not be serializable."""
    if schedule is None:
        return optimizer_config(optimizer)[0]
    in_attribute = getattr(optimizer, "_learning_rate", None) is schedule
    if in_attribute:
        optimizer._learning_rate = 0.0
    try:
        config, _ = optimizer_config(optimizer)
    finally:
        if in_attribute:
            optimizer._learning_rate = schedule
    return config | {"learning_rate": {"class_name": _schedule_name(schedule)}}
