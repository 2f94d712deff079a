"""A model as a SavedModel that plain TensorFlow serves, embedding tables folded in."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.lookup_context import HeldTables
from elasticdl.layers.table_layer import FixedTable
from elasticdl.model.building import call_model, local_variables, pull_variables
from elasticdl.model.element_spec import tensor_names
from elasticdl.model.keras_api import keras, tf_variable
from elasticdl.model.tracing import tracing


def export_saved_model(
    path: str, model: keras.Model, features: Any, tables: list[FixedTable]
) -> dict[str, Any]:
    """Write a SavedModel whose signature takes the features and gives the outputs, by name.

    A dense feature is one input. A sparse one is three, ``<name>_indices``, ``<name>_values`` and
    ``<name>_dense_shape``; a ragged one is ``<name>_values`` and ``<name>_row_splits``
    (``_row_splits_1``, … for inner dimensions). Features that are a dict have its keys as names, a
    single tensor is ``inputs``; outputs likewise, a single one is ``outputs``.

    Args:
      path: directory to write.
      model: with its trained values.
      features: nest of type specs of a minibatch.
      tables: those attached to its embedding layers.

    Returns:
      The schema: names, types and shapes of inputs and outputs.

    Raises:
      UsageError: two inputs or two outputs would have one name.
    """
    names = tensor_names(features, "inputs")
    specs = tf.nest.flatten(features)
    inputs = _distinct(
        "features",
        [
            (part_name, part, path)
            for name, spec, path in zip(names, specs, _paths(features), strict=True)
            for part_name, part in _parts(name, spec)
        ],
    )
    module = tf.Module()
    # The model itself is not tracked: Keras would trace it once more, over dense float inputs.
    module.variables_of_model = [
        tf_variable(variable) for variable in pull_variables(model) + local_variables(model)
    ]
    module.resources = _resources(model)
    module.tables = tables
    output_names: list[str] = []

    def serve(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        values = [_assemble(name, spec, tensors) for name, spec in zip(names, specs, strict=True)]
        outputs = call_model(model, tf.nest.pack_sequence_as(features, values), training=False)
        output_names[:] = tensor_names(outputs, "outputs")
        return _distinct(
            "outputs",
            [
                (part_name, part, path)
                for name, output, path in zip(
                    output_names, tf.nest.flatten(outputs), _paths(outputs), strict=True
                )
                for part_name, part in _disassemble(name, output)
            ],
        )

    with tracing(HeldTables()):
        module.serve = tf.function(serve, autograph=False)
        signature = module.serve.get_concrete_function(**inputs)
    tf.saved_model.save(module, path, signatures={"serving_default": signature})
    return {
        "inputs": [
            {
                "name": name,
                "kind": _kind(spec),
                "dtype": spec.dtype.name,
                "shape": _shape(spec.shape),
            }
            for name, spec in zip(names, specs, strict=True)
        ],
        "signature_inputs": [
            {"name": name, "dtype": spec.dtype.name, "shape": _shape(spec.shape)}
            for name, spec in inputs.items()
        ],
        "signature_outputs": [
            {"name": name, "dtype": spec.dtype.name, "shape": _shape(spec.shape)}
            for name, spec in signature.structured_outputs.items()
        ],
        "outputs": output_names,
    }


def _paths(nest: Any) -> list[str]:
    """Return how the user calls every part of a nest."""
    if isinstance(nest, dict):
        parts: Any = [(key, nest[key]) for key in sorted(nest)]
    elif isinstance(nest, list | tuple):
        parts = enumerate(nest)
    else:
        return [""]
    return [f"[{key!r}]{path}" for key, part in parts for path in _paths(part)]


def _distinct(what: str, parts: list[tuple[str, Any, str]]) -> dict[str, Any]:
    """Return parts by name; each comes as (name, part, how the user calls it)."""
    named: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for name, part, path in parts:
        if name in named:
            raise UsageError(
                f"{what} {paths[name]} and {path}: both are '{name}' in a SavedModel; rename one"
            )
        named[name], paths[name] = part, path
    return named


def _resources(model: keras.Model) -> list[Any]:
    """Return what else layers hold in TensorFlow's memory: lookup tables, plain variables."""
    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable)
    layers = list(model._flatten_layers(include_self=True, recursive=True))
    held = [each for layer in layers for each in vars(layer).values() if isinstance(each, kinds)]
    # The vocabularies of feature columns.
    return held + [layer._resources for layer in layers if getattr(layer, "_resources", None)]


def _parts(name: str, spec: Any) -> list[tuple[str, tf.TensorSpec]]:
    """Return the plain tensors a feature is made of."""

    def part(suffix: str, shape: Any, dtype: tf.DType) -> tuple[str, tf.TensorSpec]:
        return name + suffix, tf.TensorSpec(shape, dtype, name=name + suffix)

    if isinstance(spec, tf.SparseTensorSpec):
        rank = spec.shape.rank
        return [
            part("_indices", [None, rank], tf.int64),
            part("_values", [None], spec.dtype),
            part("_dense_shape", [rank], tf.int64),
        ]
    if isinstance(spec, tf.RaggedTensorSpec):
        inner = spec.shape[spec.ragged_rank + 1 :]
        splits = [
            part(_splits_suffix(level), [None], spec.row_splits_dtype)
            for level in range(spec.ragged_rank)
        ]
        return [part("_values", [None, *inner], spec.dtype), *splits]
    return [part("", spec.shape, spec.dtype)]


def _assemble(name: str, spec: Any, tensors: dict[str, tf.Tensor]) -> Any:
    if isinstance(spec, tf.SparseTensorSpec):
        return tf.SparseTensor(
            *(tensors[name + suffix] for suffix in ("_indices", "_values", "_dense_shape"))
        )
    if isinstance(spec, tf.RaggedTensorSpec):
        splits = [tensors[name + _splits_suffix(level)] for level in range(spec.ragged_rank)]
        return tf.RaggedTensor.from_nested_row_splits(
            tensors[f"{name}_values"], splits, validate=False
        )
    return tensors[name]


def _disassemble(name: str, output: Any) -> list[tuple[str, tf.Tensor]]:
    if isinstance(output, tf.RaggedTensor):
        splits = output.nested_row_splits
        return [
            (f"{name}_values", output.flat_values),
            *((name + _splits_suffix(level), each) for level, each in enumerate(splits)),
        ]
    return [(name, output)]


def _splits_suffix(level: int) -> str:
    return "_row_splits" if level == 0 else f"_row_splits_{level}"


def _kind(spec: Any) -> str:
    if isinstance(spec, tf.SparseTensorSpec):
        return "sparse"
    return "ragged" if isinstance(spec, tf.RaggedTensorSpec) else "dense"


def _shape(shape: tf.TensorShape) -> list[int | None] | None:
    return None if shape.rank is None else shape.as_list()
