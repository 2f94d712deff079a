"""What the user's input function is given, and how minibatches are made of what it returns.

Records that are bytes are given one by one, and the function returns elements of one record. Rows
of a table are given in batches, a dict of tensors ``[n, …]`` by column, and the function returns
batches, or single records if it has unbatched them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from elasticdl.data.schema import ANY_NUMBER, Schema
from elasticdl.errors import UsageError
from elasticdl.model.batching import minibatches_at_once

_DTYPES = {"int64": tf.int64, "float32": tf.float32, "bool": tf.bool, "bytes": tf.string}


def array_specs(schema: Schema) -> tuple[tf.TensorSpec, ...]:
    """Return what a task's records are as arrays; see `elasticdl.data.schema.arrays_of`."""
    if not schema:
        return (tf.TensorSpec([None], tf.string),)
    specs = []
    for column in schema:
        dtype = _DTYPES[column.kind]
        if column.size is None or column.size == ANY_NUMBER:
            specs.append(tf.TensorSpec([None], dtype))
        else:
            specs.append(tf.TensorSpec([None, column.size], dtype))
        if column.size == ANY_NUMBER:
            specs.append(tf.TensorSpec([None], tf.int64))
    return tuple(specs)


def records_dataset(
    arrays: Sequence[tf.Tensor], schema: Schema, minibatch_size: int
) -> tf.data.Dataset:
    """Return the dataset that the user's function is given.

    Args:
      arrays: as `array_specs` says.
      schema: the columns; none for records that are bytes.
      minibatch_size: rows in a batch of columns; the last may have fewer.
    """
    if not schema:
        return tf.data.Dataset.from_tensor_slices(arrays[0])
    return _in_parts(arrays, schema, minibatch_size)


def _in_parts(arrays: Sequence[tf.Tensor], schema: Schema, minibatch_size: int) -> tf.data.Dataset:
    """Return the dataset of the rows in batches; for records that are bytes, of those."""
    if not schema:
        (records,) = arrays
        starts = tf.data.Dataset.range(0, tf.size(records, tf.int64), minibatch_size)
        return starts.map(lambda start: records[start : start + minibatch_size])
    parts = list(arrays)
    columns: dict[str, Any] = {}
    for column in schema:
        values = parts.pop(0)
        if column.size == ANY_NUMBER:
            values = tf.RaggedTensor.from_row_splits(values, parts.pop(0), validate=False)
        columns[column.name] = values
    first = columns[schema[0].name]
    rows = first.nrows() if isinstance(first, tf.RaggedTensor) else tf.shape(first, tf.int64)[0]
    starts = tf.data.Dataset.range(0, rows, minibatch_size)
    return starts.map(
        lambda start: {
            name: values[start : start + minibatch_size] for name, values in columns.items()
        }
    )


def no_records(schema: Schema) -> tf.data.Dataset:
    """Return the dataset of a task without records."""
    arrays = [
        tf.constant([0], tf.int64)
        if index and _is_splits(schema, index)
        else tf.zeros([0, *spec.shape[1:]], spec.dtype)
        if spec.dtype is not tf.string
        else tf.constant([], tf.string, [0, *spec.shape[1:]])
        for index, spec in enumerate(array_specs(schema))
    ]
    return records_dataset(arrays, schema, 1)


def minibatches(
    elements: tf.data.Dataset,
    schema: Schema,
    minibatch_size: int,
    where: str,
    records: tf.data.Dataset | None = None,
    arrays: Sequence[tf.Tensor] = (),
) -> tf.data.Dataset:
    """Make minibatches, each but the last of that size, of what the user's function returned.

    Args:
      elements: what it returned.
      schema: the columns of what it was given; none for records that are bytes.
      where: the function, for the errors.
      records: what it was given, made of `arrays`; with it, a minibatch of records that are bytes
        is made at once where that makes no difference.

    Raises:
      UsageError: it makes batches itself, of records or of batches.
    """
    batched, batches = _is_batched(elements, bool(schema))
    if batches:
        right = "rows come in batches; unbatch() them first" if schema else "minibatches are made"
        right = right if schema else f"{right} of what it yields"
        raise UsageError(f"{where}: yields minibatches; remove .batch(): {right}")
    if not batched:
        at_once = None
        if records is not None and not schema:
            parts = _in_parts(arrays, schema, minibatch_size)
            at_once = minibatches_at_once(elements, records, parts, minibatch_size)
        return elements.batch(minibatch_size) if at_once is None else at_once
    specs = tf.nest.flatten(elements.element_spec)
    if all(isinstance(each, tf.TensorSpec) for each in specs):
        return elements.rebatch(minibatch_size)
    return elements.unbatch().batch(minibatch_size)


def _is_splits(schema: Schema, index: int) -> bool:
    position = 0
    for column in schema:
        position += 1
        if column.size == ANY_NUMBER:
            if position == index:
                return True
            position += 1
    return False


def _is_batched(dataset: tf.data.Dataset, of_table: bool) -> tuple[bool, bool]:
    """Say whether elements are batches, and whether the user made batches that must not be.

    Looks at the steps from the last to the first; where they do not tell, at the first dimensions.
    """
    specs = tf.nest.flatten(dataset.element_spec)
    open_first = all(each.shape.rank and each.shape[0] is None for each in specs)
    if not of_table and not open_first:
        return False, False
    step: Any = dataset
    has_batch = False
    while step is not None:
        kind = type(step).__name__
        if "Unbatch" in kind:
            return (has_batch, False) if of_table else (False, False)
        if "Batch" in kind:
            if not of_table:
                return True, True
            has_batch = True
        if of_table and kind in ("_FlatMapDataset", "FlatMapDataset", "InterleaveDataset"):
            return open_first, False
        if of_table and "Range" in kind:
            return True, has_batch
        step = getattr(step, "_input_dataset", None)
    return (open_first, False) if of_table else (False, False)
