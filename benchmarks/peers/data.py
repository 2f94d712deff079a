"""The minibatches that all train on, as files of every form that one of them reads.

A directory has, for ``train`` and for ``test``:
- ``.arrow``: columns, ready, for jobs;
- ``.minibatches``: the same ready columns, a minibatch after the other, for TensorFlow, which reads
  them as records of a fixed length and keeps them in memory;
- ``.recordio`` and ``.tfrecord``: the same as Examples that have to be parsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from elasticdl.data import example, recordio
from elasticdl.data.tfrecord import TFRecordWriter

LABEL = "label"
FORMS = ("arrow", "minibatches", "recordio", "tfrecord")
_LAYOUT = "layout.json"

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Column:
    """One column: `shape` is that of a record's values."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def record_bytes(self) -> int:
        """Bytes of a record's values."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """What the files of a directory hold.

    Attributes:
      minibatch_size: records in a minibatch.
      num_minibatches: of ``train``.
      columns: in the order in which a minibatch has them.
    """

    minibatch_size: int
    num_minibatches: int
    columns: tuple[Column, ...]

    @property
    def minibatch_bytes(self) -> int:
        """Bytes of a ready minibatch."""
        return self.minibatch_size * sum(column.record_bytes for column in self.columns)

    @classmethod
    def load(cls, directory: Path) -> Layout:
        """Read a directory's."""
        found = json.loads((directory / _LAYOUT).read_text())
        columns = [
            Column(one["name"], one["dtype"], tuple(one["shape"])) for one in found["columns"]
        ]
        return cls(found["minibatch_size"], found["num_minibatches"], tuple(columns))


def write(
    directory: Path, minibatch_size: int, train: Iterable[Columns], test: Iterable[Columns]
) -> None:
    """Write all files of a directory; minibatches have all the same columns and size."""
    directory.mkdir(parents=True, exist_ok=True)
    _, layout = _write_part(directory, "test", minibatch_size, test)
    num_minibatches, layout = _write_part(directory, "train", minibatch_size, train)
    text = json.dumps(asdict(Layout(minibatch_size, num_minibatches, layout)), indent=2)
    (directory / _LAYOUT).write_text(text + "\n")


def _write_part(
    directory: Path, part: str, minibatch_size: int, minibatches: Iterable[Columns]
) -> tuple[int, tuple[Column, ...]]:
    layout: tuple[Column, ...] = ()
    count, arrow = 0, None
    with (
        (directory / f"{part}.minibatches").open("wb") as ready,
        recordio.Writer(directory / f"{part}.recordio") as records,
        TFRecordWriter(directory / f"{part}.tfrecord") as tfrecords,
    ):
        for minibatch in minibatches:
            if not layout:
                layout = tuple(
                    Column(name, array.dtype.name, array.shape[1:])
                    for name, array in minibatch.items()
                )
            for array in minibatch.values():
                assert len(array) == minibatch_size
                ready.write(np.ascontiguousarray(array).tobytes())
            batch = _record_batch(minibatch)
            if arrow is None:
                arrow = pa.ipc.new_file(str(directory / f"{part}.arrow"), batch.schema)
            arrow.write_batch(batch)
            for row in range(minibatch_size):
                record = example.encode({name: array[row] for name, array in minibatch.items()})
                records.write(record)
                tfrecords.write(record)
            count += 1
        if arrow is not None:
            arrow.close()
    return count, layout


def _record_batch(minibatch: Columns) -> pa.RecordBatch:
    arrays = []
    for array in minibatch.values():
        values = pa.array(array.reshape(-1))
        size = int(np.prod(array.shape[1:], dtype=np.int64))
        arrays.append(
            values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, size)
        )
    return pa.RecordBatch.from_arrays(arrays, names=list(minibatch))


def read_minibatches(directory: Path, part: str = "train") -> Iterator[dict[str, np.ndarray]]:
    """Yield the ready minibatches of a part."""
    layout = Layout.load(directory)
    with (directory / f"{part}.minibatches").open("rb") as file:
        while data := file.read(layout.minibatch_bytes):
            minibatch, start = {}, 0
            for column in layout.columns:
                end = start + layout.minibatch_size * column.record_bytes
                values = np.frombuffer(data[start:end], column.dtype)
                minibatch[column.name] = values.reshape(layout.minibatch_size, *column.shape)
                start = end
            yield minibatch
