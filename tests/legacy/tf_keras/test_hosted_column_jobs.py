"""Jobs in which embedding columns are tables: the same model comes out as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import elasticdl
from elasticdl.data import example, recordio
from elasticdl.model.trained_model import load_model, load_parameters

ZOO = str(Path(__file__).parents[1] / "zoo")
TABLES = {
    "first/words_embedding/embedding_weights": (40, 4),
    "first/ids_weighted_by_weights_embedding/embedding_weights": (30, 3),
    "second/words_embedding/embedding_weights": (40, 4),
    "third/words_embedding/embedding_weights": (3, 2),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


def encoded(words: list[str], ids: Any, weights: Any, y: float = 0.0) -> bytes:
    record = {
        "ids": np.asarray(ids, np.int64),
        "weights": np.asarray(weights, np.float32),
        "y": np.float32(y),
    }
    return example.encode({**record, "words": words} if words else record)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("records") / "data.recordio"
    random = np.random.default_rng(0)
    with recordio.Writer(path) as writer:
        for _ in range(240):
            num_words, num_ids = random.integers(0, 4, 2)
            words = [f"w{each}" for each in random.integers(0, 60, num_words)]
            ids, weights = random.integers(0, 20, num_ids), random.normal(0.5, 1.0, num_ids)
            writer.write(encoded(words, ids, weights, random.random()))
    return str(path)


def train(tmp_path: Path, records: str, threshold: int, params: str, **options) -> str:
    result = elasticdl.train(
        model_zoo=ZOO,
        model_def="embedding_columns.Spec",
        data=records,
        output=str(tmp_path / f"out{threshold}"),
        embedding_threshold_bytes=threshold,
        params=params,
        num_workers=0,
        num_ps=3,
        minibatch_size=16,
        staleness=0,
        quiet=True,
        **options,
    )
    assert result.output is not None
    return result.output


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_tables_train_as_the_matrices_do(tmp_path: Path, records: str, optimizer: str) -> None:
    params = f"optimizer={optimizer}"
    hosted = train(tmp_path, records, 0, params, num_epochs=2)
    dense = train(tmp_path, records, -1, params, num_epochs=2)
    assert {name: rows.shape for name, rows in tables_of(hosted).items()} == TABLES
    assert not load_parameters(dense).tables
    ours, theirs = load_model(hosted), load_model(dense)
    assert len(ours.weights) == len(TABLES) + 2
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert mine.name == other.name
        np.testing.assert_allclose(mine, other, atol=1e-5, err_msg=mine.name)


def tables_of(path: str) -> dict[str, np.ndarray]:
    return {name: table.rows for name, table in load_parameters(path).tables.items()}


def test_loaded_served_and_predicted_answers_are_equal(tmp_path: Path, records: str) -> None:
    path = train(tmp_path, records, 300, "kind=default")
    assert len(tables_of(path)) == 3
    indices = [[0, 0], [0, 1], [2, 0]]
    features = {
        "words": tf.SparseTensor(indices, ["w1", "never trained", "w7"], [3, 2]),
        "ids": tf.SparseTensor(indices, tf.constant([3, 29, 0], tf.int64), [3, 2]),
        "weights": tf.SparseTensor(indices, [0.5, 1.0, 2.0], [3, 2]),
    }
    expected = load_model(path)(features).numpy()
    assert len(set(np.ravel(expected))) == 3
    parts = {
        f"{name}_{part}": getattr(feature, part)
        for name, feature in features.items()
        for part in ("indices", "values", "dense_shape")
    }
    served = tf.saved_model.load(f"{path}/saved_model").signatures["serving_default"](**parts)
    np.testing.assert_allclose(next(iter(served.values())), expected, atol=1e-6)
    data = str(tmp_path / "three.recordio")
    with recordio.Writer(data) as writer:
        for words, ids, weights in (
            (["w1", "never trained"], [3, 29], [0.5, 1.0]),
            ([], [], []),
            (["w7"], [0], [2.0]),
        ):
            writer.write(encoded(words, ids, weights))
    predicted = elasticdl.predict(
        trained_model=path,
        data=data,
        output=str(tmp_path / "p.csv"),
        num_workers=0,
        num_ps=2,
        quiet=True,
    )
    answers = np.loadtxt(predicted.output, delimiter=",", skiprows=1)
    np.testing.assert_allclose(answers, expected[:, 0], atol=1e-6)


def test_a_frozen_column_is_looked_up_and_stays_as_it_was(tmp_path: Path, records: str) -> None:
    path = train(tmp_path, records, 0, "kind=frozen")
    frozen = "first/ids_weighted_by_weights_embedding/embedding_weights"
    other = "first/words_embedding/embedding_weights"
    start = {
        shape[0]: np.random.default_rng(shape[0]).normal(size=shape) for shape in TABLES.values()
    }
    np.testing.assert_array_equal(tables_of(path)[frozen], start[30].astype(np.float32))
    assert np.abs(tables_of(path)[other] - start[40]).max() > 1e-3
