"""What the data recipes share: a share held out, files of Examples, a command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from elasticdl.data import example, recordio

Column: TypeAlias = "Sequence[Any] | np.ndarray"


def hold_out(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return indices to train on and indices held out, both in random order.

    Args:
      labels: of every record, integers; each label gives the same share.
      share: how much of the records is held out, between 0 and 1.
      seed: the same seed gives the same split.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        parts.append(rows[: round(len(rows) * share)])
    held_out = np.concatenate(parts)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    return rng.permutation(kept), rng.permutation(held_out)


def write(directory: Path, columns: Mapping[str, Column], num_shards: int) -> None:
    """Write ``num_shards`` RecordIO files of about equal size, one Example a row.

    Args:
      directory: made where it is not there.
      columns: values by name, all of one length.
      num_shards: how many files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    num_rows = len(next(iter(columns.values())))
    for shard, rows in enumerate(np.array_split(np.arange(num_rows), num_shards)):
        path = directory / f"{shard:05d}-of-{num_shards:05d}.recordio"
        with recordio.Writer(path) as writer:
            for row in rows:
                features = {name: values[row] for name, values in columns.items()}
                writer.write(example.encode(features))


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a command line with ``--output``, by default ``data/NAME``.

    Args:
      description: the recipe's docstring; its first line is shown.
      name: the model's directory in the zoo.
    """
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--output", type=Path, default=Path("data") / name, metavar="DIR")
    return made
