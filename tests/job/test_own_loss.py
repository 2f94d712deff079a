"""The loss of an evaluation is the one that a model's class computes, as in `model.evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import elasticdl
from elasticdl.data import example
from elasticdl.data.recordio import Writer
from elasticdl.model.keras_api import keras

ZOO = str(Path(__file__).parent / "contract_zoo")
RECORDS, SIZE = 80, 32  # the last minibatch is smaller


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    x = (random.normal(size=(RECORDS, 4)) * np.linspace(1, 3, RECORDS)[:, None]).astype(np.float32)
    return {
        "x": x,
        "label": (x @ random.normal(size=(4, 3))).argmax(1),
        "y": x.sum(1),
        "weight": random.uniform(0, 3, RECORDS).astype(np.float32),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, np.ndarray]) -> str:
    path = tmp_path_factory.mktemp("data") / "part.recordio"
    with Writer(path) as writer:
        for row in range(RECORDS):
            writer.write(example.encode({name: each[row] for name, each in columns.items()}))
    return str(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Added", {"input_fn": "weighted_feed"}),
        ("Added", {"class_weight": {0: 0.5, 1: 3.0}}),
        ("Whole", {"input_fn": "weighted_feed"}),
        ("Whole", {}),
    ],
)
def test_a_loss_of_the_models_own_is_that_of_model_evaluate(
    columns: dict[str, np.ndarray], data: str, tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    output = str(tmp_path / "out")
    in_process = {"num_workers": 0, "minibatch_size": SIZE, "quiet": True}
    trained = elasticdl.train(
        model_zoo=ZOO,
        model_def=f"own_loss.{name}",
        data=data,
        validation_data=data,
        output=output,
        num_epochs=2,
        **in_process,
        **options,
    )
    evaluated = elasticdl.evaluate(trained_model=output, data=data, **in_process)

    model = elasticdl.load_model(output)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    weights = columns["weight"] if "input_fn" in options else None
    expected = model.evaluate(
        {"x": columns["x"]},
        columns["label"],
        batch_size=SIZE,
        sample_weight=weights,
        verbose=0,
        return_dict=True,
    )["loss"]
    alone = keras.losses.SparseCategoricalCrossentropy()
    outputs = model.predict({"x": columns["x"]}, verbose=0)
    assert abs(float(alone(columns["label"], outputs)) - expected) > 1e-3, "it is another loss"
    assert evaluated.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert trained.metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert set(trained.metrics) == {"loss", "accuracy"}
