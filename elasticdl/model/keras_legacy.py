"""tf_keras, as the rest of this package uses it; `elasticdl.model.keras_three` is its twin.

tf_keras has no stateless scope: a step assigns the values it is given to the model's variables and
differentiates by these. So one step of a model at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tf_keras.src import backend
from tf_keras.src.engine.functional import Functional
from tf_keras.src.engine.keras_tensor import KerasTensor
from tf_keras.src.feature_column.dense_features_v2 import _StateManagerImplV2
from tf_keras.src.utils import metrics_utils

from elasticdl.errors import UsageError

_SEED_MODULUS = 2**31 - 1
_NO_EFFECT = 1e-6  # of epsilon, relative to what it is added to
_updates = threading.local()


class Randomness:
    """The random layers of a model, whose results a step decides by its seed."""

    def __init__(self, model: keras.Model) -> None:
        layers = model._flatten_layers(include_self=True, recursive=True)
        found = [getattr(layer, "_random_generator", None) for layer in layers]
        generators = {id(one): one for one in found if isinstance(one, backend.RandomGenerator)}
        self._generators = list(generators.values())

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable is the state of a random layer; tf_keras keeps them elsewhere."""
        return False

    @contextmanager
    def seeded(self, step_seed: tf.Tensor) -> Iterator[None]:
        """Make every random layer's results a function of the seed, an int64 scalar."""
        of_step = tf.stack([step_seed % _SEED_MODULUS, step_seed // _SEED_MODULUS])
        outer = [dict(vars(each)) for each in self._generators]
        for index, each in enumerate(self._generators):
            vars(each).update(
                _built=True,
                _rng_type=backend.RandomGenerator.RNG_STATELESS,
                make_seed_for_stateless_op=_seeds(of_step, index),
            )
        try:
            yield
        finally:
            for each, attributes in zip(self._generators, outer, strict=True):
                vars(each).clear()
                vars(each).update(attributes)


def _seeds(of_step: tf.Tensor, layer: int) -> Callable[[], tf.Tensor]:
    """Return what gives a random layer another seed at each of its calls in a step."""
    num_calls = 0

    def next_seed() -> tf.Tensor:
        nonlocal num_calls
        num_calls += 1
        of_layer = tf.random.experimental.stateless_fold_in(of_step, layer)
        return tf.random.experimental.stateless_fold_in(of_layer, num_calls)

    return next_seed


class Binding:
    """Given values in the place of a model's variables, while a function is traced.

    The function assigns them when it runs.

    Args:
      variables: the model's.
      values: one for each.
      randomness: with a `step_seed`, decides the random layers too.

    Attributes:
      sources: what a gradient tape watches: one for each variable.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        values: Sequence[tf.Tensor],
        randomness: Randomness | None = None,
        step_seed: tf.Tensor | None = None,
    ) -> None:
        self.sources = list(variables)
        self._randomness, self._step_seed = randomness, step_seed
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the model compute with the values inside the block."""
        if self._randomness is None or self._step_seed is None:
            yield
            return
        with self._randomness.seeded(self._step_seed):
            yield

    def current(self, variable: tf.Variable) -> tf.Tensor:
        """Return a variable's value after what the model did."""
        return variable.read_value()

    def keep(self, variables: Sequence[tf.Variable]) -> None:
        """Store what the model assigned to variables that were not given: it has done so."""


def tf_variable(variable: tf.Variable) -> tf.Variable:
    """Return TensorFlow's variable behind one of Keras."""
    return variable


def variable_path(variable: tf.Variable) -> str:
    """Return a variable's name with those of the layers it is in."""
    return variable.name.removesuffix(":0")


def new_variable_path(layer: keras.layers.Layer, name: str) -> str:
    """Return the path that a variable would have, made in a layer's `build`, just now."""
    scope = tf.get_current_name_scope()
    return f"{scope}/{name}" if scope else name


def embedding_matrix(layer: keras.layers.Embedding) -> tf.Variable | None:
    """Return the variable that an embedding layer looks up, None before it is built."""
    return vars(layer).get("embeddings")


def only_looks_up(layer: keras.layers.Embedding) -> bool:
    """Whether an embedding layer, not yet built, does nothing with its matrix but look up rows."""
    return not layer.sparse and not layer._use_one_hot_matmul


state_managers: tuple[Any, ...] = (_StateManagerImplV2,)
"""What makes the variables of feature columns: of `DenseFeatures`."""


def id_range(layer: keras.layers.Embedding) -> tuple[int, int]:
    """Return the smallest id of an embedding layer and the one after the largest."""
    return 0, layer.input_dim


def initializer_seed(initializer: keras.initializers.Initializer) -> Any:
    """Return the seed the user gave an initializer, or None."""
    return initializer.get_config().get("seed")


def input_structure(model: keras.Model) -> Any:
    """Return the nest of a functional model's inputs, None for other models."""
    return model._nested_inputs if isinstance(model, Functional) else None


def is_symbolic(value: Any) -> bool:
    """Whether a value is a tensor of a functional model under construction."""
    return isinstance(value, KerasTensor)


def metric_variables(model: keras.Model) -> list[tf.Variable]:
    """Return the variables of the metrics a model holds."""
    return [variable for metric in model.metrics for variable in metric.variables]


optimizer_classes: tuple[Any, ...] = (
    keras.optimizers.Optimizer,
    keras.optimizers.legacy.Optimizer,
)


def optimizer_config(optimizer: Any) -> tuple[dict[str, Any], str]:
    """Return an optimizer's hyper-parameters, as Keras 3 calls them, and the name of its class.

    Raises:
      UsageError: it is of `keras.optimizers.legacy` and computes something else than Keras 3 does.
    """
    config = {
        # Numbers may be NumPy's.
        name: value.item() if hasattr(value, "item") else value
        for name, value in optimizer.get_config().items()
    }
    class_name = type(optimizer).__name__
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        _check_same_update(config, class_name)
    return config, class_name


def _check_same_update(config: dict[str, Any], class_name: str) -> None:
    """Raise UsageError where a legacy optimizer updates otherwise than Keras does since."""
    instead = f"use tf.keras.optimizers.{class_name}"
    if class_name == "Nadam":
        raise UsageError(
            "optimizer 'legacy.Nadam': corrects its momentum otherwise than the parameter servers, "
            f"who do as Keras does since; {instead}"
        )
    epsilon = config.get("epsilon", 0.0)
    outside = {
        "RMSprop": epsilon > 0 and not config.get("momentum"),
        "Adagrad": epsilon > _NO_EFFECT * config.get("initial_accumulator_value", 0.0) ** 0.5,
    }
    if outside.get(class_name, False):
        raise UsageError(
            f"optimizer 'legacy.{class_name}': adds epsilon={epsilon:g} to the root, the parameter "
            f"servers below it, as Keras does since; {instead}"
        )


@contextmanager
def fresh_names() -> Iterator[None]:
    """Count Keras's automatic names from the start inside the block, whatever was made before."""
    counters = dict(backend.PER_GRAPH_OBJECT_NAME_UIDS)
    observed = set(backend.OBSERVED_NAMES)
    graph = getattr(backend._GRAPH, "graph", None)
    backend.PER_GRAPH_OBJECT_NAME_UIDS.clear()
    backend.OBSERVED_NAMES.clear()
    # Layers of functional models are named in this graph, where names are unique for ever.
    backend._GRAPH.graph = None
    try:
        yield
    finally:
        backend._GRAPH.graph = graph
        backend.reset_uids()
        backend.PER_GRAPH_OBJECT_NAME_UIDS.update(counters)
        backend.OBSERVED_NAMES.update(observed)


@contextmanager
def recorded_updates() -> Iterator[dict[int, keras.metrics.Metric]]:
    """Yield the metrics, by id, whose update_state this thread calls inside the block.

    Their states do not tell: an update without any positive record leaves Recall's as it was.
    """
    outer = getattr(_updates, "noted", None)
    updated: dict[int, keras.metrics.Metric] = {}
    _updates.noted = updated
    try:
        yield updated
    finally:
        _updates.noted = outer


def _noting(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Let what wraps each metric's update_state, when the metric is made, note its calls too."""

    def wrap(update_state: Callable[..., Any]) -> Callable[..., Any]:
        decorated = wrapper(update_state)

        def noted(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> Any:
            updated = getattr(_updates, "noted", None)
            if updated is not None:
                updated[id(metric)] = metric
            return decorated(metric, *args, **kwargs)

        return noted

    return wrap


metrics_utils.update_state_wrapper = _noting(metrics_utils.update_state_wrapper)
