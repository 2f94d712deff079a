"""An input function of single records, applied to whole minibatches where that gives the same.

What a user's function costs is mostly what it costs to call it: parsing 1,024 Examples at once
takes a tenth of what 1,024 calls take. So where everything that he does with the records is
``map`` and ``shuffle``, and all operations of what he maps are known, the records are batched first
and his functions are made ones of a batch, operation by operation. Nothing is decided by the data:
every process that traces the function decides alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from elasticdl.model.batched_operations import (
    COMPONENTS,
    Unbatchable,
    Value,
    batched,
    repeated,
)

_MAPS = ("_MapDataset", "_ParallelMapDataset")
_SHUFFLE, _PREFETCH = "_ShuffleDataset", "_PrefetchDataset"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# The way a sparse tensor goes from one mapped function to the next.
_PACK_SPARSE, _UNPACK_SPARSE = "SerializeSparse", "DeserializeSparse"

_LOGGER = logging.getLogger(__name__)


def minibatches_at_once(
    elements: tf.data.Dataset,
    records: tf.data.Dataset,
    batches: tf.data.Dataset,
    minibatch_size: int,
) -> tf.data.Dataset | None:
    """Return the minibatches that batching a dataset would give, made in fewer calls.

    Args:
      elements: what a user's function made of `records`; call while it is traced.
      records: serialized, one by one.
      batches: the same records, a minibatch of them at once.
      minibatch_size: of these.

    Returns:
      None where that cannot be done.
    """
    try:
        functions, shuffles = _steps(elements, records)
        if shuffles:  # Who is shuffled first, and mapped then, stands where he would stand.
            for shuffle in shuffles:
                records = _shuffled(records, shuffle)
            batches = records.batch(minibatch_size)
        spec = elements.element_spec
        leaves = tf.nest.flatten(spec)
        if not functions or not _are_plain(leaves):
            return None

        @tf.autograph.experimental.do_not_convert
        def of_batch(serialized: tf.Tensor) -> Any:
            count = tf.shape(serialized)[0]
            values = [Value(serialized, True)]
            for function in functions:
                values = _apply(function, values, count)
            tensors = [
                _result(value, leaf, count) for value, leaf in zip(values, leaves, strict=True)
            ]
            return tf.nest.pack_sequence_as(spec, tensors)

        made = batches.map(of_batch)
    except Exception as why:  # what is not understood stays as it is
        _LOGGER.debug("records are parsed one by one: %s", why)
        return None
    # A shape that is known of one is known of the other.
    same = tf.nest.map_structure(_is_same, made.element_spec, elements.batch(1).element_spec)
    return made if all(tf.nest.flatten(same)) else None


def _steps(elements: tf.data.Dataset, records: tf.data.Dataset) -> tuple[list[Any], list[Any]]:
    """Return what was mapped over the records, and how they were shuffled, the first first.

    Raises:
      Unbatchable: something else was done.
    """
    functions: list[Any] = []
    shuffles: list[Any] = []
    step: Any = elements
    while step is not records:
        kind = type(step).__name__
        if kind in _MAPS:
            functions.append(step._map_func.function)
        elif kind == _SHUFFLE:
            shuffles.append(step)
        elif kind != _PREFETCH:
            raise Unbatchable(f"records went through {kind}")
        step = step._input_dataset
    return functions[::-1], shuffles[::-1]


def _shuffled(records: tf.data.Dataset, like: Any) -> tf.data.Dataset:
    """Shuffle records as another dataset was."""
    variant = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=like._buffer_size,
        seed=like._seed,
        seed2=like._seed2,
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        reshuffle_each_iteration=like._reshuffle_each_iteration,
        output_types=[tf.string],
        output_shapes=[[]],
    )
    return tf.data.experimental.from_variant(variant, records.element_spec)


def _are_plain(leaves: Sequence[Any]) -> bool:
    """Whether each is one tensor, which a mapped function returns as one."""
    return all(isinstance(each, tf.TensorSpec | tf.SparseTensorSpec) for each in leaves)


def _result(value: Any, spec: tf.TypeSpec, count: tf.Tensor) -> Any:
    """Return what the dataset yields for what a function returned."""
    if isinstance(value, tf.SparseTensor):
        return value
    if value.of_sparse is not None:
        raise Unbatchable("a component of a sparse tensor")
    tensor = repeated(value, count)
    tensor.set_shape(tf.TensorShape([None]).concatenate(spec.shape))
    return tensor


def _is_same(one: tf.TypeSpec, other: tf.TypeSpec) -> bool:
    return one == other or (
        isinstance(one, tf.SparseTensorSpec)
        and isinstance(other, tf.SparseTensorSpec)
        and one.dtype == other.dtype
        and one.shape.rank == other.shape.rank
    )


def _apply(function: Any, arguments: Sequence[Any], count: tf.Tensor) -> list[Any]:
    """Return what a function of one record returns for a batch.

    Args:
      function: a concrete function.
      arguments: values; a sparse tensor, of all records, where it is given one.
      count: the number of records.
    """
    captured = [Value(tf.convert_to_tensor(each), False) for each in function.captured_inputs]
    return _run(function.graph, [*arguments, *captured], count)


def _run(graph: Any, arguments: Sequence[Any], count: tf.Tensor) -> list[Any]:
    known: dict[int, Any] = {
        id(tensor): value for tensor, value in zip(graph.inputs, arguments, strict=True)
    }
    for operation in graph.get_operations():
        if operation.type in ("Placeholder", "NoOp"):
            continue
        inputs = [known[id(each)] for each in operation.inputs]
        for output, value in zip(
            operation.outputs, _outputs(operation, inputs, count), strict=True
        ):
            known[id(output)] = value
    return [known[id(each)] for each in graph.outputs]


def _outputs(operation: Any, inputs: Sequence[Any], count: tf.Tensor) -> list[Any]:
    if operation.type in _CALLS:
        function = operation.graph._get_function(operation.get_attr("f").name)
        return _run(function.graph, inputs, count)
    if operation.type == _PACK_SPARSE:
        parts = [each.of_sparse for each in inputs]
        if None in parts or [part for _, part in parts] != [*COMPONENTS] or len(set(parts)) != 3:
            raise Unbatchable("a sparse tensor that was not parsed as it is")
        if any(each.is_inexact for each in inputs):
            raise Unbatchable("a sparse tensor of what may differ in the last bit")
        if len({tensor for tensor, _ in parts}) != 1:
            raise Unbatchable("a sparse tensor of several")
        return [tf.SparseTensor(*(each.tensor for each in inputs))]
    if operation.type == _UNPACK_SPARSE:
        (sparse,) = inputs
        tensors = (sparse.indices, sparse.values, sparse.dense_shape)
        return [
            Value(tensor, True, (operation.name, part))
            for tensor, part in zip(tensors, COMPONENTS, strict=True)
        ]
    if any(isinstance(each, tf.SparseTensor) for each in inputs):
        if operation.type == "Identity":
            return list(inputs)
        raise Unbatchable(f"{operation.type} of a sparse tensor")
    return batched(operation, inputs, count)
