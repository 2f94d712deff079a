"""TensorFlow's operations on a record, as operations on a batch of records.

Each rule is given an operation of a function of one record, and what its inputs are for a batch,
and returns its outputs for the batch. Only such operations have one that give the same for each
record of a batch as for the record alone. Floats may differ in the last bit where TensorFlow
computes several at once, so what would make an id or anything else of them that jumps is refused,
and so is what has no rule, or an input that a rule does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf


class Unbatchable(Exception):
    """Why a function of one record stays one."""


class Value(NamedTuple):
    """What stands for a tensor of the function of one record.

    Attributes:
      tensor: of all records, with them along a new first dimension; or the same for each.
      is_batched: which of both.
      of_sparse: that tensor, and which component of it, where this is one of a sparse tensor; all
        records' tensors are one sparse tensor then.
      is_inexact: whether it may differ in the last bit from what it is for a record alone.
    """

    tensor: tf.Tensor
    is_batched: bool
    of_sparse: tuple[str, str] | None = None
    is_inexact: bool = False


INDICES, VALUES, SHAPE = COMPONENTS = ("indices", "values", "shape")
"""Of a sparse tensor."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


Rule: TypeAlias = Callable[[Any, Sequence[Value], tf.Tensor], list[tf.Tensor] | list[Value]]
"""Given an operation, the values of its inputs, and the number of records; returns the outputs.

Tensors are batched values.
"""

SAME_SHAPE = _names(
    "Abs Neg Sign Square Sqrt Rsqrt Exp Expm1 Log Log1p Sin Cos Tan Tanh Sigmoid Softplus Relu "
    "Floor Ceil Round Rint Reciprocal IsNan IsInf IsFinite LogicalNot Invert Cast Identity "
    "StopGradient ZerosLike OnesLike Bucketize AsString StringToNumber StringLower StringUpper "
    "StringStrip StringLength StringToHashBucket StringToHashBucketFast StringToHashBucketStrong "
    "StaticRegexReplace StaticRegexFullMatch EncodeBase64 DecodeBase64 Erf"
)
"""Operations of one input, each element by itself: as they are on a sparse tensor's values, too."""

_BROADCASTING = _names(
    "Add AddV2 Sub Mul Div RealDiv FloorDiv FloorMod Mod TruncateDiv DivNoNan Maximum Minimum Pow "
    "SquaredDifference Greater GreaterEqual Less LessEqual Equal NotEqual LogicalAnd LogicalOr "
    "BitwiseAnd BitwiseOr BitwiseXor LeftShift RightShift SelectV2 Atan2 Xdivy MulNoNan"
)
_REDUCTIONS = _names("Sum Mean Max Min Prod All Any ArgMax ArgMin")
# The input that may differ between records; the others are the same for all, and scalars.
_WITH_SETTINGS = {
    "LookupTableFindV2": 1,
    "RegexReplace": 0,
    "RegexFullMatch": 0,
    "Substr": 0,
    "ClipByValue": 0,
}
# Of the same for all records, they give the same for all; they have no rule for other inputs.
_WITHOUT_RULE = _names("Const Range Fill LinSpace")
_WITH_STATE = frozenset(("LookupTableFindV2",))
_INEXACT = _names(
    "Sqrt Rsqrt Exp Expm1 Log Log1p Sin Cos Tan Tanh Sigmoid Softplus Reciprocal Erf Pow Atan2 "
    "Xdivy Sum Mean Prod"
)
"""Of floats, computed by other instructions where there are several."""
_CONTINUOUS = _INEXACT | _names(
    "Abs Neg Square Relu Cast Identity StopGradient Add AddV2 Sub Mul Div RealDiv DivNoNan Maximum "
    "Minimum SquaredDifference SelectV2 MulNoNan Max Min ClipByValue Reshape ExpandDims Squeeze "
    "Pack Unpack ConcatV2 StridedSlice GatherV2 Transpose"
)
"""What a last bit goes through as a last bit, as long as floats come out."""


def batched(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[Value]:
    """Return the outputs of an operation for a batch.

    Args:
      operation: of the function of one record.
      inputs: what its inputs are for the batch.
      count: the number of records.

    Raises:
      Unbatchable: there is no rule, or it does not know such inputs.
    """
    kind = operation.type
    if kind not in RULES and kind not in _WITHOUT_RULE:
        raise Unbatchable(f"there is no rule for {kind}")
    if operation.op_def.is_stateful and kind not in _WITH_STATE:
        raise Unbatchable(f"{kind} has state")
    is_inexact = any(each.is_inexact for each in inputs)
    if is_inexact and kind != "Shape" and not _is_continuous(operation):
        raise Unbatchable(f"{kind} of what may differ in the last bit")
    is_inexact |= kind in _INEXACT
    of_sparse = [each.of_sparse for each in inputs if each.of_sparse is not None]
    if of_sparse:
        if kind != "Identity" and (kind not in SAME_SHAPE or of_sparse[0][1] != VALUES):
            raise Unbatchable(f"{kind} of a sparse tensor")
        made = again(operation, [inputs[0].tensor])
        return [_marked(Value(each, True, of_sparse[0]), is_inexact) for each in made]
    if not any(each.is_batched for each in inputs):
        return [Value(each, False) for each in again(operation, [each.tensor for each in inputs])]
    if kind not in RULES:
        raise Unbatchable(f"{kind} of what differs between records")
    values = []
    for output, each in zip(operation.outputs, RULES[kind](operation, inputs, count), strict=True):
        if not isinstance(each, Value):
            each.set_shape(tf.TensorShape([None]).concatenate(output.shape))
            each = _marked(Value(each, True), is_inexact)
        values.append(each)
    return values


def _is_continuous(operation: Any) -> bool:
    return operation.type in _CONTINUOUS and all(
        each.dtype.is_floating for each in operation.outputs
    )


def _marked(value: Value, is_inexact: bool) -> Value:
    return value._replace(is_inexact=is_inexact and value.tensor.dtype.is_floating)


def again(operation: Any, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the outputs of the same operation, with its attributes, of other inputs."""
    attributes = {each.name: operation.node_def.attr[each.name] for each in operation.op_def.attr}
    made = tf.compat.v1.get_default_graph().create_op(
        operation.type,
        list(inputs),
        [each.dtype for each in operation.outputs],
        attrs=attributes,
        op_def=operation.op_def,
    )
    return list(made.outputs)


def repeated(value: Value, count: tf.Tensor) -> tf.Tensor:
    """Return a value with all records along a first dimension, whether it differs or not."""
    if value.is_batched:
        return value.tensor
    tensor = value.tensor
    return tf.repeat(tensor[tf.newaxis], tf.reshape(count, [1]), axis=0)


def _parse(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[Value]:
    if not inputs[0].is_batched or any(each.is_batched for each in inputs[1:]):
        raise Unbatchable("a description of Examples that differs between records")
    if operation.inputs[0].shape.rank != 0:
        raise Unbatchable("several Examples in a record")
    shapes = [tf.TensorShape(each) for each in operation.get_attr("dense_shapes")]
    if not all(each.is_fully_defined() for each in shapes):
        raise Unbatchable("a feature of any length")  # alone never padded
    names = _static(inputs[1].tensor)
    if names is None or names.size:
        raise Unbatchable("names of Examples")
    if operation.get_attr("ragged_value_types"):
        raise Unbatchable("a ragged feature")
    made = again(operation, [each.tensor for each in inputs])
    num_sparse = operation.get_attr("num_sparse")
    values = []
    for index, each in enumerate(made[: 3 * num_sparse]):
        part, number = divmod(index, max(num_sparse, 1))
        values.append(Value(each, True, (f"{operation.name}:{number}", COMPONENTS[part])))
    for shape, each in zip(shapes, made[3 * num_sparse :], strict=True):
        each.set_shape(tf.TensorShape([None]).concatenate(shape))
        values.append(Value(each, True))
    return values


def _of_settings(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    place = _WITH_SETTINGS[operation.type]
    for index, each in enumerate(inputs):
        if index != place and (each.is_batched or each.tensor.shape.rank != 0):
            raise Unbatchable(f"{operation.type} with settings that differ")
    return again(operation, [each.tensor for each in inputs])


def _same_shape(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    return again(operation, [inputs[0].tensor])


def _broadcast(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    rank = max(_rank(each) for each in operation.inputs)
    return again(operation, [_lifted(each, rank) for each in inputs])


def _lifted(value: Value, rank: int) -> tf.Tensor:
    """Give each record's part of a value that rank, so that broadcasting leaves records alone."""
    if not value.is_batched:
        return value.tensor
    missing = rank - (_rank(value.tensor) - 1)
    if not missing:
        return value.tensor
    shape = tf.shape(value.tensor)
    ones = tf.ones([missing], tf.int32)
    return tf.reshape(value.tensor, tf.concat([shape[:1], ones, shape[1:]], axis=0))


def _string_join(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    ranks = {_rank(each) for each in operation.inputs}
    if len(ranks) > 1 and any(each.is_batched and not _rank(each.tensor) - 1 for each in inputs):
        raise Unbatchable("texts joined of several ranks")
    tensors = [
        each.tensor if each.tensor.shape.rank == 0 else repeated(each, count) for each in inputs
    ]
    return again(operation, tensors)


def _reshape(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    shape = _known(inputs[1], "Reshape")
    return [tf.reshape(inputs[0].tensor, [count, *shape.tolist()])]


def _expand_dims(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    axis = int(_known(inputs[1], "ExpandDims").item())
    return [tf.expand_dims(inputs[0].tensor, axis + 1 if axis >= 0 else axis)]


def _squeeze(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    axes = list(operation.get_attr("squeeze_dims"))
    if not axes:
        shape = operation.inputs[0].shape
        if not shape.is_fully_defined():
            raise Unbatchable("Squeeze of an unknown shape")
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    shifted = [axis + 1 if axis >= 0 else axis for axis in axes]
    return [tf.squeeze(inputs[0].tensor, shifted) if shifted else tf.identity(inputs[0].tensor)]


def _pack(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    axis = operation.get_attr("axis")
    tensors = [repeated(each, count) for each in inputs]
    return [tf.stack(tensors, axis + 1 if axis >= 0 else axis)]


def _unpack(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    axis = operation.get_attr("axis")
    number = operation.get_attr("num")
    return list(tf.unstack(inputs[0].tensor, number, axis + 1 if axis >= 0 else axis))


def _concat(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    *parts, axis_value = inputs
    axis = int(_known(axis_value, "ConcatV2").item())
    tensors = [repeated(each, count) for each in parts]
    return [tf.concat(tensors, axis + 1 if axis >= 0 else axis)]


def _strided_slice(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    begin, end, strides = (_known(each, "StridedSlice").tolist() for each in inputs[1:])
    masks = {name: mask << 1 for name, mask in _masks(operation).items()}
    masks["begin_mask"] |= 1
    masks["end_mask"] |= 1
    value = inputs[0].tensor
    return [tf.strided_slice(value, [0, *begin], [0, *end], [1, *strides], **masks)]


def _gather(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    params, indices, axis_value = inputs
    axis = int(_known(axis_value, "GatherV2").item())
    if operation.get_attr("batch_dims") or axis < 0:
        raise Unbatchable("GatherV2 along such an axis")
    if params.is_batched and not indices.is_batched:
        return [tf.gather(params.tensor, indices.tensor, axis=axis + 1)]
    if not params.is_batched and axis == 0:
        return [tf.gather(params.tensor, indices.tensor)]
    raise Unbatchable("GatherV2 of what differs, by what differs")


def _one_hot(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    indices, depth, on, off = inputs
    if depth.is_batched or on.is_batched or off.is_batched:
        raise Unbatchable("OneHot with settings that differ")
    axis = operation.get_attr("axis")
    axis = axis + 1 if axis >= 0 else axis
    return [tf.one_hot(indices.tensor, depth.tensor, on.tensor, off.tensor, axis=axis)]


def _transpose(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    order = _known(inputs[1], "Transpose").tolist()
    return [tf.transpose(inputs[0].tensor, [0, *(axis % len(order) + 1 for axis in order)])]


def _reduce(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    axes = _known(inputs[1], operation.type)
    shifted = np.where(axes >= 0, axes + 1, axes).astype(axes.dtype)
    return again(operation, [inputs[0].tensor, tf.constant(shifted)])


def _decode_raw(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    # A batch wants texts of one length; alone each may have its own, if that goes unnoticed.
    takers = operation.outputs[0].consumers()
    shapes = [
        tf.get_static_value(each.inputs[1]) if each.type == "Reshape" else None for each in takers
    ]
    if not takers or any(each is None or (each < 0).any() for each in shapes):
        raise Unbatchable("bytes of any length")
    return again(operation, [inputs[0].tensor])


def _shape(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[Value]:
    shape = operation.inputs[0].shape
    if not shape.is_fully_defined():
        raise Unbatchable("a shape that may differ")
    return [Value(tf.constant(shape.as_list(), operation.outputs[0].dtype), False)]


def _bound(operation: Any, inputs: Sequence[Value], count: tf.Tensor) -> list[tf.Tensor]:
    """Search one sorted row: the records' values are as many more of that row's."""
    bounds, values = inputs
    if bounds.is_batched or operation.inputs[0].shape[0] != 1 or _rank(values.tensor) != 3:
        raise Unbatchable("a search in what differs")
    found = again(operation, [bounds.tensor, tf.reshape(values.tensor, [1, -1])])
    return [tf.reshape(found[0], tf.shape(values.tensor))]


def _rank(tensor: tf.Tensor) -> int:
    rank = tensor.shape.rank
    if rank is None:
        raise Unbatchable("a tensor of any rank")
    return int(rank)


def _known(value: Value, kind: str) -> np.ndarray:
    """Return a value that is known while the function is traced."""
    known = None if value.is_batched else _static(value.tensor)
    if known is None:
        raise Unbatchable(f"{kind} by what is not known before")
    return known


def _static(tensor: tf.Tensor) -> np.ndarray | None:
    """Return what a tensor always is; as `tf.get_static_value`, and parts of shapes as well."""
    known = tf.get_static_value(tensor)
    if known is not None:
        return np.asarray(known)
    operation = tensor.op
    if operation.type not in ("StridedSlice", "Pack"):
        return None
    found = [_static(each) for each in operation.inputs]
    inputs = [each for each in found if each is not None]
    if len(inputs) < len(found):
        return None
    if operation.type == "Pack":
        return np.stack(inputs, operation.get_attr("axis"))
    with tf.init_scope():
        return np.asarray(tf.strided_slice(*inputs, **_masks(operation)))


def _masks(operation: Any) -> dict[str, int]:
    names = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    return {name: operation.get_attr(name) for name in names}


RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME_SHAPE, _same_shape),
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_WITH_SETTINGS, _of_settings),
    "ParseExampleV2": _parse,
    "StringJoin": _string_join,
    "Reshape": _reshape,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Pack": _pack,
    "Unpack": _unpack,
    "ConcatV2": _concat,
    "StridedSlice": _strided_slice,
    "GatherV2": _gather,
    "OneHot": _one_hot,
    "Transpose": _transpose,
    "DecodeRaw": _decode_raw,
    "Shape": _shape,
    "LowerBound": _bound,
    "UpperBound": _bound,
}
