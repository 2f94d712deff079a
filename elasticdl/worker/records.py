"""Reads a task's records, in the order in which every worker reads them (R7)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from elasticdl.data.readers import open_reader
from elasticdl.data.schema import Schema, arrays_of


@dataclass(frozen=True)
class TableRecords:
    """The rows of a task whose data has columns.

    Attributes:
      table: the rows.
      arrays: what `elasticdl.data.schema.arrays_of` makes of them.
    """

    table: pa.Table
    arrays: list[np.ndarray]

    def __len__(self) -> int:
        return self.table.num_rows


TaskRecords: TypeAlias = "list[bytes] | TableRecords"


def read_task_records(
    path: str,
    start: int,
    end: int,
    permutation_seed: str | None,
    max_chunk_bytes: int,
    schema: Schema = (),
) -> TaskRecords:
    """Return the records of a task.

    Args:
      permutation_seed: permutes them, the same way in every process; None keeps the file's order.
      max_chunk_bytes: the largest chunk accepted.
      schema: the columns of the job; none where its records are bytes.

    Raises:
      DataError: the file is missing, truncated or corrupted, or has a value that does not fit.
    """
    order = list(range(end - start))
    if permutation_seed is not None:
        random.Random(permutation_seed).shuffle(order)
    reader = open_reader(path, max_chunk_bytes)
    records = reader.read(start, end, schema)
    if isinstance(records, list):
        return [records[row] for row in order]
    # Missing values are named by their rows in the file: looked for before the permutation.
    where = f"'{path}', records {start} to {end}"
    arrays = arrays_of(records, schema, where)
    if permutation_seed is not None:
        records = records.take(pa.array(order, pa.int64()))
        arrays = arrays_of(records, schema, where)
    return TableRecords(records, arrays)
