"""Building the same model everywhere: equal names, equal initial values, no data."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.hosting import Hosting, matrices_in, tables_in
from elasticdl.layers.lookup_context import BuildOnly
from elasticdl.layers.matrix_table import KEEP_ALL
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.contract import Contract
from elasticdl.model.definitions import TableDefinition, VariableDefinition
from elasticdl.model.keras_api import (
    fresh_names,
    input_structure,
    is_symbolic,
    keras,
    metric_variables,
    variable_path,
)
from elasticdl.model.moving_averages import MovingAverages
from elasticdl.model.parameters import Parameters
from elasticdl.model.tracing import tracing
from elasticdl.model.user_code import user_code
from elasticdl.ps.initializers import RowInitializer


def build_model(contract: Contract, features: Any, seed: int) -> keras.Model:
    """Create a model and its variables, equal in every process that is given the same arguments.

    Args:
      contract: makes the model.
      features: nest of type specs of a minibatch; no data is needed.
      seed: of Python's, NumPy's and TensorFlow's generators, which are left set.

    Raises:
      UsageError: an input of a functional model is not among the features.
      UserCodeError: creating or calling the model raises.
    """
    kept: set[str] = set()
    hosting = Hosting(contract.source.embedding_threshold_bytes)
    while True:
        try:
            with hosting.active():
                model = _make_model(contract, features, seed)
        except Exception:
            if not hosting.hosted:
                raise
            # Without a matrix asked for it is the model's own error, or one that the lack of a
            # matrix makes: to be seen without any on the parameter servers.
            if not hosting.wanted:
                hosting = Hosting(KEEP_ALL)
                continue
        if not hosting.wanted:
            return model
        kept |= hosting.wanted
        hosting = Hosting(contract.source.embedding_threshold_bytes, kept)


def _make_model(contract: Contract, features: Any, seed: int) -> keras.Model:
    with contract.at_home(), fresh_names():
        keras.utils.set_random_seed(seed % (1 << 32))
        model = _with_input(contract.create_model(), features)
        _check_inputs(contract, model, features)
        if not model.built:
            context = BuildOnly()
            function = tf.function(
                lambda *parts: call_model(
                    model,
                    tf.nest.pack_sequence_as(features, parts, expand_composites=True),
                    training=False,
                ),
                autograph=False,
            )
            what = f"the model of '{contract.source.model_def}'"
            with user_code(what), tracing(context):
                # Not through get_concrete_function's caller: variables make it trace twice.
                function.get_concrete_function(*tf.nest.flatten(features, expand_composites=True))
    return model


def call_model(model: keras.Model, features: Any, training: bool) -> Any:
    """Call a model; a functional one takes its inputs out of a dict by name, not by position."""
    names = _input_names(model)
    if names is not None and isinstance(features, dict) and set(names) <= set(features):
        named = {name: features[name] for name in names}
        inputs = input_structure(model)
        features = named if isinstance(inputs, dict) else list(named.values())
        if is_symbolic(inputs):
            (features,) = features
    return model(features, training=training)


def pull_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that live on the parameter servers: trainable first, then float state.

    Raises:
      UsageError: one is trainable and not float32.
    """
    trainable = list(model.trainable_variables)
    for variable in trainable:
        if variable.dtype != "float32":
            raise UsageError(
                f"variable '{variable_path(variable)}': is {tf.as_dtype(variable.dtype).name}; "
                "trainable variables must be float32, so create the layer with dtype='float32'"
            )
    state = [each for each in model.non_trainable_variables if each.dtype == "float32"]
    return trainable + _not_metrics(model, state)


def check_trainable(
    model: keras.Model, trainable: Sequence[keras.Variable], tables: Sequence[TableLayer]
) -> None:
    """Raise UsageError for what would be lost in training: constraints, and scaling of the loss.

    Args:
      model: with these variables and tables.
      trainable: its trainable variables.
      tables: its layers whose rows are tables.
    """
    constraints = [
        *((variable_path(each), each.constraint) for each in trainable),
        *((each.table_name, each.embeddings_constraint) for each in tables if each.trainable),
    ]
    for path, constraint in constraints:
        if constraint is not None:
            raise UsageError(
                f"variable '{path}': the parameter servers do not apply its constraint "
                f"{type(constraint).__name__}; leave it out, or use a regularizer"
            )
    for layer in model._flatten_layers(include_self=True, recursive=True):
        if layer.compute_dtype == "float16":
            raise UsageError(
                f"layer '{layer.name}': computes in float16, whose gradients vanish without "
                "scaling the loss; use the policy 'mixed_bfloat16', which needs none"
            )


def local_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that stay in each worker: counters, random seeds."""
    others = [each for each in model.non_trainable_variables if each.dtype != "float32"]
    return _not_metrics(model, others)


def define_variables(
    model: keras.Model, variables: list[keras.Variable], averages: MovingAverages | None = None
) -> list[VariableDefinition]:
    """Return what each of some variables of a model is, under names that differ.

    Args:
      model: whose variables they are.
      variables: as `pull_variables` returns them.
      averages: tells the moving averages among them; not needed but for training.
    """
    trainable = {id(variable) for variable in model.trainable_variables}
    seen: collections.Counter[str] = collections.Counter()
    definitions = []
    for variable in variables:
        path = variable_path(variable)
        seen[path] += 1
        if seen[path] > 1:
            path = f"{path}:{seen[path] - 1}"
        is_trainable = id(variable) in trainable
        momentum = 1.0 if averages is None else averages.momentum(variable)
        shape = tuple(variable.shape)
        definitions.append(VariableDefinition(path, shape, is_trainable, momentum))
    return definitions


def table_layers(model: keras.Model) -> list[TableLayer]:
    """Return what of the model has its rows on the parameter servers."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return [table for layer in layers for table in tables_in(layer)]


def warn_of_large_matrices(model: keras.Model, threshold_bytes: int) -> list[str]:
    """Say of which Keras embeddings the matrix stays local although it is large."""
    return [
        f"{matrix.label}: its matrix of {matrix.num_bytes:,} bytes is pulled and pushed "
        "whole in each step: it is used beside the layer's lookups, or the layer is not quite "
        "keras.layers.Embedding or DenseFeatures; elasticdl.layers.Embedding moves rows only"
        for layer in model._flatten_layers(include_self=False, recursive=True)
        for matrix in matrices_in(layer)
        if matrix.is_large(threshold_bytes)
    ]


def define_tables(layers: list[TableLayer], seed: int) -> list[TableDefinition]:
    """Return the tables of some distinct layers, in their order.

    Raises:
      UsageError: two layers have one name.
    """
    names = collections.Counter(layer.table_name for layer in layers)
    for name, count in names.items():
        if count > 1:
            raise UsageError(
                f"layer '{name}': {count} embedding layers have this name, which is their table's; "
                f"give each its own, for example Embedding(…, name='{name}_2')"
            )
    return [
        TableDefinition(
            layer.table_name,
            layer.output_dim,
            layer.row_initializer(seed),
            frozen=not layer.trainable,
            rules=layer.lifetime_rules,
        )
        for layer in layers
    ]


def fold_matrices(
    parameters: Parameters,
    model: keras.Model,
    variables: list[keras.Variable],
    definitions: list[VariableDefinition],
    seed: int,
) -> Parameters:
    """Return parameters in which tables of Keras embeddings are the matrices of this model.

    Args:
      parameters: trained with some of the model's matrices as tables.
      model: built with these matrices in it.
      variables: of the model.
      definitions: theirs.
      seed: of the training; rows that were never trained are initial ones.
    """
    matrices = {
        id(matrix.variable): matrix
        for layer in model._flatten_layers(include_self=False, recursive=True)
        for matrix in matrices_in(layer)
    }
    dense, tables = dict(parameters.dense), dict(parameters.tables)
    for variable, definition in zip(variables, definitions, strict=True):
        matrix = matrices.get(id(variable))
        if matrix is None or definition.path in dense or definition.path not in tables:
            continue
        trained = tables.pop(definition.path)
        initializer = matrix.initializer_by_id(definition.path, seed) or RowInitializer()
        num_rows, dim = matrix.shape
        values = initializer.rows(np.arange(num_rows, dtype=np.int64), dim)
        values[trained.ids] = trained.rows
        dense[definition.path] = values
    return Parameters(dense, tables)


def _input_names(model: keras.Model) -> list[str] | None:
    """Return the names of a functional model's inputs, or None where they have none in one row."""
    if isinstance(model, keras.Sequential):
        return None
    struct = input_structure(model)
    if isinstance(struct, dict):
        parts = list(struct.values())
        names = list(struct)
    else:
        parts = list(struct) if isinstance(struct, list | tuple) else [struct]
        names = [getattr(part, "name", "") for part in parts]
    return names if all(is_symbolic(part) for part in parts) else None


def _check_inputs(contract: Contract, model: keras.Model, features: Any) -> None:
    """Raise UsageError where a functional model has an input that no feature of a dict is."""
    names = _input_names(model)
    if names is None or not isinstance(features, dict) or len(names) == len(features) == 1:
        return
    missing = [name for name in names if name not in features]
    if missing:
        raise UsageError(
            f"the model of '{contract.source.model_def}': its input '{missing[0]}' is not among "
            f"the features {', '.join(map(repr, sorted(features)))}; name each keras.Input as its "
            f"feature: keras.Input(…, name='{min(features)}')"
        )


def _not_metrics(model: keras.Model, variables: list[keras.Variable]) -> list[keras.Variable]:
    metrics = {id(variable) for variable in metric_variables(model)}
    return [variable for variable in variables if id(variable) not in metrics]


def _with_input(model: keras.Model, features: Any) -> keras.Model:
    """Give a Sequential model without an input the one its data has.

    Left to itself Keras assumes a dense float input, which rounds large ids.
    """
    if type(model) is not keras.Sequential or model.built:
        return model
    if not isinstance(features, tf.TensorSpec | tf.RaggedTensorSpec | tf.SparseTensorSpec):
        return model
    first = keras.Input(
        batch_shape=(None, *features.shape[1:]),
        dtype=features.dtype.name,
        ragged=isinstance(features, tf.RaggedTensorSpec),
        sparse=isinstance(features, tf.SparseTensorSpec),
    )
    return keras.Sequential([first, *model.layers], name=model.name)
