"""Keras 3, as the rest of this package uses it; `elasticdl.model.keras_legacy` is its twin."""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras as keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state

_NAME_COUNTERS = "object_name_uids"
_SEED_STATE = "seed_generator_state"
_SEED_MODULUS = 2**31 - 1

# Keras says so for the usual case, a model of one named input over a dataset of dicts, and is right
# about what it does then.
warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match", module="keras")


class Randomness:
    """The random layers of a model, whose results a step decides by its seed."""

    def __init__(self, model: keras.Model) -> None:
        self._states = [
            (variable, variable.numpy().astype(np.int64))
            for variable in model.non_trainable_variables
            if variable.name == _SEED_STATE
        ]

    def owns(self, variable: keras.Variable) -> bool:
        """Whether a variable is the state of a random layer."""
        return variable.name == _SEED_STATE

    def of_step(self, step_seed: tf.Tensor) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return the state of every random layer for the step with this seed, an int64 scalar."""
        of_step = tf.stack([step_seed % _SEED_MODULUS, step_seed // _SEED_MODULUS])
        return [
            (variable, tf.cast((of_step + initial) % _SEED_MODULUS, variable.dtype))
            for variable, initial in self._states
        ]


class Binding:
    """Given values in the place of a model's variables, while a function is traced.

    Args:
      variables: the model's.
      values: one for each.
      randomness: with a `step_seed`, decides the random layers too.

    Attributes:
      sources: what a gradient tape watches: one for each variable.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        values: Sequence[tf.Tensor],
        randomness: Randomness | None = None,
        step_seed: tf.Tensor | None = None,
    ) -> None:
        self.sources = list(values)
        mapping = list(zip(variables, values, strict=True))
        if randomness is not None and step_seed is not None:
            mapping += randomness.of_step(step_seed)
        self._scope = keras.StatelessScope(mapping, collect_losses=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the model compute with the values inside the block."""
        with self._scope:
            yield

    def current(self, variable: keras.Variable) -> tf.Tensor:
        """Return a variable's value after what the model did."""
        return self._scope.get_current_value(variable)

    def keep(self, variables: Sequence[keras.Variable]) -> None:
        """Store what the model assigned to variables that were not given."""
        for variable in variables:
            new = self._scope.get_current_value(variable)
            if new is not None:
                variable.assign(new)


def tf_variable(variable: keras.Variable) -> tf.Variable:
    """Return TensorFlow's variable behind one of Keras."""
    return variable.value


def variable_path(variable: keras.Variable) -> str:
    """Return a variable's name with those of the layers it is in."""
    return variable.path


def new_variable_path(layer: keras.layers.Layer, name: str) -> str:
    """Return the path that a variable would have, made in a layer's `build`."""
    return f"{layer.path}/{name}"


def embedding_matrix(layer: keras.layers.Embedding) -> keras.Variable | None:
    """Return the variable that an embedding layer looks up, None before it is built."""
    return getattr(layer, "_embeddings", None)


def only_looks_up(layer: keras.layers.Embedding) -> bool:
    """Whether an embedding layer, not yet built, does nothing with its matrix but look up rows."""
    return not layer.lora_rank and not layer.quantization_mode


state_managers: tuple[Any, ...] = ()
"""What makes the variables of feature columns: Keras 3 has no layers of them."""


def id_range(layer: keras.layers.Embedding) -> tuple[int, int]:
    """Return the smallest id of an embedding layer and the one after the largest."""
    return -layer.input_dim, layer.input_dim


def initializer_seed(initializer: keras.initializers.Initializer) -> Any:
    """Return the seed the user gave an initializer, or None."""
    seed = getattr(initializer, "_init_seed", None)
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.get_config()["seed"]
    return seed


def input_structure(model: keras.Model) -> Any:
    """Return the nest of a functional model's inputs, None for other models."""
    return getattr(model, "_inputs_struct", None)


def is_symbolic(value: Any) -> bool:
    """Whether a value is a tensor of a functional model under construction."""
    return isinstance(value, keras.KerasTensor)


def metric_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of the metrics a model holds."""
    return list(model.metrics_variables)


optimizer_classes: tuple[Any, ...] = (keras.optimizers.Optimizer,)


def optimizer_config(optimizer: keras.optimizers.Optimizer) -> tuple[dict[str, Any], str]:
    """Return an optimizer's hyper-parameters and the name of its class."""
    return optimizer.get_config(), type(optimizer).__name__


@contextmanager
def fresh_names() -> Iterator[None]:
    """Count Keras's automatic names from the start inside the block, whatever was made before."""
    outer = global_state.get_global_attribute(_NAME_COUNTERS)
    global_state.set_global_attribute(_NAME_COUNTERS, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(_NAME_COUNTERS, outer)


@contextmanager
def recorded_updates() -> Iterator[dict[int, keras.metrics.Metric]]:
    """Yield the metrics, by id, whose update_state is called inside the block.

    Their states do not tell: an update without any positive record leaves Recall's as it was.
    """
    updated: dict[int, keras.metrics.Metric] = {}
    classes = [each for each in _subclasses(keras.metrics.Metric) if "update_state" in vars(each)]
    originals = [vars(each)["update_state"] for each in classes]
    for each, update_state in zip(classes, originals, strict=True):
        setattr(each, "update_state", _recording(update_state, updated))  # noqa: B010
    try:
        yield updated
    finally:
        for each, update_state in zip(classes, originals, strict=True):
            setattr(each, "update_state", update_state)  # noqa: B010


def _recording(
    update_state: Callable[..., Any], updated: dict[int, keras.metrics.Metric]
) -> Callable[..., Any]:
    @functools.wraps(update_state)
    def recorded(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> Any:
        updated[id(metric)] = metric
        return update_state(metric, *args, **kwargs)

    return recorded


def _subclasses(kind: type) -> set[type]:
    found: set[type] = {kind}
    subclasses: list[type] = kind.__subclasses__()
    for each in subclasses:
        found |= _subclasses(each)
    return found
