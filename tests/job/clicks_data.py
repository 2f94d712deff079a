"""Data of the clicks model: labels that its ids decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elasticdl.data import example
from elasticdl.data.recordio import Writer

ZOO = str(Path(__file__).parent / "zoo")


def write_clicks(directory: Path, num_records: int, num_files: int = 2) -> str:
    """Write files of records numbered in order; return the pattern that names them."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    row, per_file = 0, num_records // num_files
    for index in range(num_files):
        with Writer(directory / f"clicks-{index}.recordio", chunk_bytes=1 << 16) as writer:
            for _ in range(per_file):
                ids = random.integers(0, 200, 3) ** 5
                features = {
                    "row": row,
                    "ids": ids.astype(np.int64),
                    "number": np.float32(random.normal()),
                    "label": int((ids % 7).sum() > 6),
                }
                writer.write(example.encode(features))
                row += 1
    return str(directory / "*.recordio")
