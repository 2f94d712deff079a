"""Reads a task's records, in the order in which every worker reads them (R7)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from elasticdl.data.readers import open_reader
from elasticdl.data.schema import Schema, arrays_of
from elasticdl.data.shards import Shard, find_shards
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.contract import Contract
from elasticdl.model.custom_reader import CustomReader, has_custom_reader


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


class RecordSources:
    """Where a job's records come from: data files, or the user's own reader. Thread-safe.

    Args:
      job_spec: the job.
      contract: may have a reader of its own.

    Raises:
      UserCodeError: making the user's reader raises.
    """

    def __init__(self, job_spec: JobSpec, contract: Contract) -> None:
        self.declared: dict[str, list[tuple[str, int, int]]] = {}
        self._job_spec = job_spec
        self._contract = contract
        self._schema = contract.source.schema
        self._readers: dict[str, CustomReader] = {}
        self._names: dict[str, set[str]] = {}
        self._is_custom = contract.custom_data_reader() is not None
        if self._is_custom != has_custom_reader(job_spec):
            raise UsageError(
                f"model_def '{contract.source.model_def}': whether custom_data_reader is meant to "
                "read its data is unclear; name it with --custom_data_reader=MODULE.NAME"
            )

    def find(self, option: str, pattern: str) -> list[Shard]:
        """Return the shards of an option's value; notes those that the user's reader declares.

        Raises:
          UsageError: there are none.
          UserCodeError: the user's reader raises.
        """
        if not self._is_custom:
            return find_shards(pattern, self._job_spec.max_chunk_bytes, option)
        shards = self._reader(pattern).shards()
        self.declared[option] = [(each.path, each.num_records, each.start) for each in shards]
        return shards

    def read(self, shard: str, start: int, end: int, permutation_seed: str | None) -> TaskRecords:
        """Return the records of a range; see `read_task_records`."""
        if not self._is_custom:
            limit = self._job_spec.max_chunk_bytes
            return read_task_records(shard, start, end, permutation_seed, limit, self._schema)
        # Shards are told apart by name; the training's reader may not know the validation's.
        origins = [self._job_spec.data, self._job_spec.validation_data]
        known = [one for one in origins if one is not None]
        origin = known[0]
        if len(known) > 1:
            origin = next((one for one in known if shard in self._shard_names(one)), origin)
        records = self._reader(origin).read(shard, start, end)
        if permutation_seed is not None:
            random.Random(permutation_seed).shuffle(records)
        return records

    def _shard_names(self, origin: str) -> set[str]:
        if origin not in self._names:
            self._names[origin] = {each.path for each in self._reader(origin).shards()}
        return self._names[origin]

    def _reader(self, origin: str) -> CustomReader:
        if origin not in self._readers:
            tasks = self._job_spec.records_per_task
            self._readers[origin] = CustomReader(self._contract, origin, tasks)
        return self._readers[origin]
