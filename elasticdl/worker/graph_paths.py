"""What a tensor of a traced model is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_ARRANGING = {
    *("Cast", "Identity", "Reshape", "ExpandDims", "Squeeze", "StridedSlice", "Transpose"),
    *("ConcatV2", "Pack", "Split", "SplitV", "Unpack", "Tile", "Slice", "GatherV2"),
}


def narrowed_through(ids: tf.Tensor) -> tf.DType | None:
    """Return the type that integers of the input were cast to, and back, on the way to these ids.

    Only where nothing but their arrangement changed: whoever computes with them knows the type.
    """
    waiting, seen = [ids.op], set()
    narrowest = {}
    narrowest[id(ids.op)] = ids.dtype
    while waiting:
        operation = waiting.pop()
        narrow = narrowest[id(operation)]
        if operation.type == "Placeholder":
            source = operation.outputs[0].dtype
            if source.is_integer and (narrow.is_floating or narrow.size < source.size):
                return narrow
            continue
        if operation.type not in _ARRANGING:
            continue
        for each in operation.inputs:
            if id(each.op) not in seen:
                seen.add(id(each.op))
                size = 0 if each.dtype.is_floating else each.dtype.size
                smaller = not narrow.is_floating and size < narrow.size
                narrowest[id(each.op)] = each.dtype if smaller else narrow
                waiting.append(each.op)
    return None


def ancestors(tensor: tf.Tensor) -> Iterator[Any]:
    """Yield the operations a tensor is computed from."""
    waiting, seen = [tensor.op], {id(tensor.op)}
    while waiting:
        operation = waiting.pop()
        yield operation
        for each in operation.inputs:
            if id(each.op) not in seen:
                seen.add(id(each.op))
                waiting.append(each.op)
