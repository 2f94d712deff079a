"""Reads the files of parts, batch by batch, and checks what it is given."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError

from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import Manifest
from elasticdl.ps.part_files import PartFile, PlacedPart

if TYPE_CHECKING:
    import pyarrow as pa


def model_of(manifest: Manifest) -> ps_pb2.ModelDefinition:
    """Return the definition of the model that a checkpoint is of.

    Raises:
      ValueError: it cannot be read, or is larger than the values that are there.
    """
    try:
        model = ps_pb2.ModelDefinition.FromString(base64.b64decode(manifest.model, validate=True))
    except (DecodeError, binascii.Error) as error:
        raise ValueError(f"the model definition is unreadable: {error}") from None
    num_bytes = sum(
        one["bytes"] for part in manifest.parts for one in part["files"] if one["kind"] == "dense"
    )
    sizes = [4 * int(np.prod(one.shape, dtype=object)) for one in model.variables]
    if min(sizes, default=0) < 0 or sum(sizes) > num_bytes:
        raise ValueError(
            f"its model has {sum(sizes):,} bytes of variables, its files {num_bytes:,}"
        )
    return model


def read_batches(
    parts: list[PlacedPart], kind: str, schema: pa.Schema, table: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the files of one kind (and table) of some parts.

    Raises:
      ValueError: as `read_file`.
    """
    for placed in parts:
        for file in placed.files(kind, table):
            yield from read_file(file, schema)


def read_file(file: PartFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read a file batch by batch; its columns must be exactly these, without nulls.

    Raises:
      ValueError: they are not, or the file is damaged.
    """
    import pyarrow as pa

    try:
        with file.open() as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(schema):
                raise ValueError(f"its columns are {reader.schema.names}, not {schema.names}")
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise ValueError("a value is missing")
                yield batch
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{file.name}: {' '.join(str(error).split())}") from error


def numbers(column: pa.Array, dtype: type) -> np.ndarray:
    """View an Arrow array as numpy, contiguous."""
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False).astype(dtype, copy=False))


def vectors(column: pa.FixedSizeListArray, dim: int) -> np.ndarray:
    """View an Arrow array of vectors as float32 ``[n, dim]``."""
    return numbers(column.flatten(), np.float32).reshape(-1, dim)


def slice_values(column: pa.ListArray, row: int, length: int) -> np.ndarray:
    """Return the values of one dense slice, float32 ``[length]``.

    Raises:
      ValueError: there are more or less.
    """
    values = column[row].values
    if len(values) != length:
        raise ValueError(f"a dense slice has {len(values)} elements, not {length}")
    return numbers(values, np.float32)
