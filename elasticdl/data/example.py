"""Examples, the usual content of a record: named lists of int64, float32 or bytes.

The bytes are those of ``tf.train.Example``; TensorFlow is not needed to make or read them. An
Example has no shapes: arrays are stored flat, in C order, and whoever parses them states the shape
(``tf.io.FixedLenFeature([28, 28], tf.float32)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from elasticdl.errors import DataError, UsageError
from elasticdl.proto import example_pb2

FeatureValue: TypeAlias = (
    "bytes | str | bool | int | float | np.generic | np.ndarray | Sequence[Any]"
)

_INT64 = np.iinfo(np.int64)


def encode(features: Mapping[str, FeatureValue]) -> bytes:
    """Return a serialized Example; the same features always give the same bytes.

    Integers and booleans are stored as int64, floats as float32, `str` as UTF-8 bytes.

    Args:
      features: by name, one value, a sequence of values of one kind, or an array of any shape.

    Raises:
      UsageError: a value is of no kind an Example can hold, or an integer does not fit int64.
    """
    example = example_pb2.Example()
    table = example.features.feature
    for name, value in features.items():
        _store(table[name], name, value)
    return example.SerializeToString(deterministic=True)


def decode(record: bytes) -> dict[str, np.ndarray | list[bytes]]:
    """Return the features of a serialized Example, sorted by name.

    Returns:
      by name an int64 or float32 array of one dimension, or a list of bytes. A feature that was
      stored without a kind is an empty list.

    Raises:
      DataError: the record is not an Example.
    """
    try:
        example = example_pb2.Example.FromString(record)
    except DecodeError as error:
        raise DataError(
            f"record of {len(record)} bytes: not a serialized tf.train.Example ({error}); "
            "write it with elasticdl.data.example.encode or TensorFlow"
        ) from error
    table = example.features.feature
    features: dict[str, np.ndarray | list[bytes]] = {}
    for name in sorted(table):
        feature = table[name]
        kind = feature.WhichOneof("kind")
        if kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, np.int64)
        elif kind == "float_list":
            features[name] = np.array(feature.float_list.value, np.float32)
        else:
            features[name] = list(feature.bytes_list.value)
    return features


def _store(feature: example_pb2.Feature, name: str, value: FeatureValue) -> None:
    if isinstance(value, bytes | str):
        feature.bytes_list.value.append(_to_bytes(name, value))
        return
    if isinstance(value, list | tuple) and value and isinstance(value[0], bytes | str):
        feature.bytes_list.value.extend(_to_bytes(name, item) for item in value)
        return
    array = np.asarray(value)
    kind = array.dtype.kind
    flat = array.ravel().tolist()
    if kind in "OSU":
        feature.bytes_list.value.extend(_to_bytes(name, item) for item in flat)
    elif kind in "biu":
        feature.int64_list.value.extend(_fitting(name, array, flat))
    elif kind == "f" or array.dtype.name == "bfloat16":
        feature.float_list.value.extend(array.ravel().astype(np.float32).tolist())
    else:
        raise UsageError(
            f"feature '{name}': {array.dtype} values; an Example holds int64, float32 or bytes"
        )


def _fitting(name: str, array: np.ndarray, flat: list[int]) -> Iterable[int]:
    if array.dtype == np.uint64 and array.size and int(array.max()) > _INT64.max:
        raise UsageError(f"feature '{name}': {int(array.max())} does not fit int64")
    return map(int, flat) if array.dtype.kind == "b" else flat


def _to_bytes(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise UsageError(
        f"feature '{name}': {type(value).__name__} among its values; "
        "an Example holds int64, float32 or bytes, one kind in a feature"
    )
