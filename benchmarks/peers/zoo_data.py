"""Minibatches of the model zoo's own data, as its models' input functions make them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.peers import data
from benchmarks.workloads import MODEL_ZOO, Workload
from elasticdl.data import recordio
from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource


def write(workload: Workload, directory: Path, minibatch_size: int, count: int) -> None:
    """Write the files of a directory, from the data that a model of the zoo is trained on.

    Args:
      count: minibatches to train on, at most; of data that is less, as many whole ones as it has.
    """
    source = ModelSource(MODEL_ZOO, workload.model_def, workload.params_text)
    contract = load_contract(source, Mode.TRAINING)
    with tempfile.TemporaryDirectory(prefix="elasticdl-peers-") as place:
        workload.make_data(Path(place))
        train, test = (
            _minibatches(contract, Path(place) / part, minibatch_size, most)
            for part, most in (("train", count), ("test", max(1, count // 8)))
        )
        data.write(directory, minibatch_size, train, test)


def _minibatches(
    contract: Contract, directory: Path, size: int, most: int
) -> Iterator[dict[str, np.ndarray]]:
    paths = sorted(directory.glob("*.recordio"))
    records = [record for path in paths for record in recordio.Scanner(path)]
    np.random.default_rng(0).shuffle(records)
    dataset = contract.dataset(tf.data.Dataset.from_tensor_slices(records), Mode.TRAINING)
    for features, labels in dataset.batch(size, drop_remainder=True).take(most):
        columns = {**features, data.LABEL: labels}
        yield {name: values.numpy() for name, values in columns.items()}
