"""The features of the records that `write_clicks` writes."""

from __future__ import annotations

import numpy as np

from elasticdl.data import example
from elasticdl.data.recordio import Scanner


def features_of(pattern: str) -> dict[str, np.ndarray]:
    """Return them in the order of the data."""
    files = [pattern.replace("*", f"clicks-{index}") for index in range(2)]
    examples = [example.decode(record) for file in files for record in Scanner(file)]
    return {
        "ids": np.array([one["ids"] for one in examples], np.int64),
        "number": np.array([one["number"] for one in examples], np.float32),
    }
