"""NumPy files as a source of Examples."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from elasticdl.data.schema import Column
from elasticdl.errors import DataError

_ROWS_AT_ONCE = 1 << 14


class NumpySource:
    """The rows of ``.npz`` and ``.npy`` files.

    A ``.npz`` file has one array a column, all of the same first dimension, that of the rows. A
    ``.npy`` file is one column, named after the file. What a row has in a column is stored flat, in
    C order: the shape is for the reader to state. Several files with the same columns are read one
    after another.

    Args:
      paths: the files.

    Raises:
      DataError: a file cannot be read as such.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        self.num_records = 0
        shapes: dict[str, tuple[str, tuple[int, ...]]] | None = None
        for path in self._paths:
            arrays = _load(path)
            found = {name: (_kind(path, name, a), a.shape[1:]) for name, a in arrays.items()}
            if shapes is None:
                shapes = found
            elif shapes != found:
                raise DataError(
                    f"NumPy file '{path}': columns {found}; '{self._paths[0]}' has {shapes}"
                )
            self.num_records += len(next(iter(arrays.values())))
        self._columns = {
            name: Column(name, kind, math.prod(shape) if shape else None)
            for name, (kind, shape) in (shapes or {}).items()
        }

    @property
    def schema(self) -> pa.Schema:
        """What the tables have."""
        return pa.schema([(name, each.arrow_type) for name, each in self._columns.items()])

    def tables(self) -> Iterator[pa.Table]:
        """Iterate over the rows, in the order of the files."""
        for path in self._paths:
            arrays = _load(path)
            num_rows = len(next(iter(arrays.values())))
            for start in range(0, num_rows, _ROWS_AT_ONCE):
                end = start + _ROWS_AT_ONCE
                yield pa.table(
                    {
                        name: _to_arrow(arrays[name][start:end], each)
                        for name, each in self._columns.items()
                    },
                    schema=self.schema,
                )


def _to_arrow(array: np.ndarray, column: Column) -> pa.Array:
    flat = np.ascontiguousarray(array).ravel()
    if column.kind == "bytes":
        values = pa.array(
            [v if isinstance(v, bytes) else v.encode() for v in flat.tolist()], pa.binary()
        )
    else:
        values = pa.array(flat).cast(
            column.arrow_type.value_type if column.size else column.arrow_type,
            safe=column.kind != "float32",
        )
    if column.size is None:
        return values
    return pa.FixedSizeListArray.from_arrays(values, column.size)


def _load(path: str) -> dict[str, np.ndarray]:
    try:
        # mmap_mode applies to .npy alone: there it keeps what the header claims within the file.
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {Path(path).stem: loaded}
        else:
            with loaded:
                arrays = dict(loaded)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"NumPy file '{path}': {error}; it must be .npy or .npz of plain arrays"
        ) from error
    if not arrays:
        raise DataError(f"NumPy file '{path}': has no arrays; one array a column")
    for name, array in arrays.items():
        if not array.ndim:
            raise DataError(
                f"NumPy file '{path}': array '{name}' has no dimension; rows come first"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"NumPy file '{path}': first dimensions {lengths}; they must be the same")
    return arrays


def _kind(path: str, name: str, array: np.ndarray) -> str:
    kinds = {"b": "int64", "i": "int64", "u": "int64", "f": "float32", "S": "bytes", "U": "bytes"}
    if array.dtype.kind not in kinds:
        raise DataError(
            f"NumPy file '{path}': array '{name}' is {array.dtype}; "
            "integers, booleans, floats or strings"
        )
    return kinds[array.dtype.kind]
