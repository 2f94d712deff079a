"""Reads a task's records, in the order in which every worker reads them (R7)."""

from __future__ import annotations

import random

from elasticdl.data.recordio import read_range


def read_task_records(
    path: str, start: int, end: int, permutation_seed: str | None, max_chunk_bytes: int
) -> list[bytes]:
    """Return the records of a task.

    Args:
      permutation_seed: permutes them, the same way in every process; None keeps the file's order.
      max_chunk_bytes: the largest chunk accepted.

    Raises:
      DataError: the file is missing, truncated or corrupted.
    """
    records = read_range(path, start, end - start, max_chunk_bytes)
    if permutation_seed is not None:
        random.Random(permutation_seed).shuffle(records)
    return records
