"""Jobs of every contract, each compared with what `model.fit` and `model.evaluate` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import elasticdl
from elasticdl.data import example
from elasticdl.data.recordio import Writer
from elasticdl.errors import UsageError
from elasticdl.model.building import build_model
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource

ZOO = str(Path(__file__).parent / "contract_zoo")
RECORDS = 96
SIZE = 32
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def columns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    x = random.normal(size=(RECORDS, 4)).astype(np.float32)
    return {
        "x": x,
        "label": (x @ random.normal(size=(4, 3))).argmax(1),
        "y": x.sum(1),
        "weight": random.uniform(0, 3, RECORDS).astype(np.float32),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "part.recordio"
    given = columns()
    with Writer(path) as writer:
        for row in range(RECORDS):
            writer.write(example.encode({name: given[name][row] for name in given}))
    return str(path)


def train(data: str, output: Path, model_def: str, **options: Any) -> Any:
    """Train in this process, in the order of the data, every step on the step before."""
    given = {
        "model_zoo": ZOO,
        "model_def": model_def,
        "data": data,
        "validation_data": data,
        "output": str(output),
        "minibatch_size": SIZE,
        "records_per_task": RECORDS,
        "num_workers": 0,
        "staleness": 0,
        "shuffle": False,
        "quiet": True,
    }
    return elasticdl.train(**{**given, **options})


def untrained(model_def: str, **options: str) -> keras.Model:
    """The model of a definition with the initial values that a job gives it."""
    contract = load_contract(ModelSource(ZOO, model_def, **options), Mode.TRAINING)
    return build_model(contract, element_spec(contract, Mode.TRAINING).features, 0)


def fitted(
    model: keras.Model, x: Any, y: Any, compiled: dict[str, Any], fit: dict[str, Any]
) -> tuple[keras.Model, dict[str, float]]:
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), **compiled})
    model.fit(x, y, batch_size=SIZE, shuffle=False, verbose=0, **fit)
    evaluated = {key: value for key, value in fit.items() if key == "sample_weight"}
    measured = model.evaluate(x, y, batch_size=SIZE, verbose=0, return_dict=True, **evaluated)
    return model, measured


def assert_equal(result: Any, model: keras.Model, measured: dict[str, float]) -> None:
    trained = elasticdl.load_model(result.output)
    for ours, theirs in zip(trained.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, value in result.metrics.items():
        assert value == pytest.approx(measured[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(
    ("model_def", "params", "from_logits"),
    [
        ("published.functional", "units=3", True),
        ("published.functional.custom_model", "lr=0.1", True),
        ("published.subclass.CustomModel", "hidden_units=[5], learning_rate=0.1", False),
        ("published.subclass", "lr=0.1", False),
        ("model_class.Classifier", "units=5, rate=0.1", True),
    ],
)
def test_a_definition_trains_and_measures_as_fit_does(
    data: str, tmp_path: Path, model_def: str, params: str, from_logits: bool
) -> None:
    result = train(data, tmp_path / "out", model_def, params=params)
    given = columns()
    x = given["x"] if model_def.startswith("model_class") else {"x": given["x"]}
    compiled = {"loss": CROSSENTROPY(from_logits=from_logits), "metrics": ["accuracy"]}
    expected = fitted(untrained(model_def, params=params), x, given["label"], compiled, {})
    assert_equal(result, *expected)
    assert set(result.metrics) == {"loss", "accuracy"}
    assert result.audit["lost"] == 0


@pytest.mark.parametrize(
    ("options", "fit"),
    [
        ({}, {}),
        ({"model_def": "keras_forms.compiled_model", "loss": "per_record"}, {}),
        ({"optimizer": "SGD(lr=0.1)", "loss": "SparseCategoricalCrossentropy()"}, {}),
        ({"input_fn": "weighted_feed"}, "weight"),
        ({"input_fn": "weighted_feed", "loss": "with_weights"}, "weight"),
        ({"input_fn": "keras_forms.weighted_feed", "loss": "per_record"}, "weight"),
        ({"class_weight": {0: 0.5, 1: 3.0}}, "class"),
        ({"class_weight": "{0: 0.5, 1: 3}", "loss": "per_record"}, "class"),
    ],
)
def test_weights_regularizers_and_keras_forms_count_as_fit_counts_them(
    data: str, tmp_path: Path, options: dict[str, Any], fit: Any
) -> None:
    model_def = options.get("model_def", "keras_forms")
    result = train(data, tmp_path / "out", **{"model_def": model_def, **options})
    given = columns()
    how: dict[str, Any] = {}
    if fit == "weight":
        how = {"sample_weight": given["weight"]}
    elif fit == "class":
        how = {"class_weight": {0: 0.5, 1: 3.0, 2: 1.0}}
    compiled = {"loss": CROSSENTROPY(), "metrics": ["accuracy"]}
    expected = fitted(untrained("keras_forms"), {"x": given["x"]}, given["label"], compiled, how)
    assert_equal(result, *expected)


def test_a_model_of_two_inputs_and_two_outputs_trains_and_measures_as_fit_does(
    data: str, tmp_path: Path
) -> None:
    result = train(data, tmp_path / "out", "two_outputs", params="learning_rate=0.1")
    given = columns()
    x = {"left": given["x"][:, :2], "right": given["x"][:, 2:]}
    compiled = {
        "loss": {"kind": CROSSENTROPY(), "value": "mse"},
        "loss_weights": {"kind": 1.0, "value": 0.25},
        "metrics": {
            "kind": [keras.metrics.SparseCategoricalAccuracy(name="right")],
            "value": [keras.metrics.MeanAbsoluteError(name="error")],
        },
    }
    y = {"kind": given["label"], "value": given["y"]}
    expected = fitted(untrained("two_outputs"), x, y, compiled, {})
    assert_equal(result, *expected)
    assert set(result.metrics) == {"loss", "kind_right", "value_error"}


def test_a_training_step_of_the_models_own_trains_as_fit_does(data: str, tmp_path: Path) -> None:
    result = train(data, tmp_path / "out", "own_step")
    given = columns()
    model, x = untrained("own_step"), {"x": given["x"]}
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit(x, given["label"], batch_size=SIZE, shuffle=False, verbose=0)
    right = model.predict(x, verbose=0).argmax(1) == given["label"]
    assert_equal(result, model, {"accuracy": right.mean()})
    assert set(result.metrics) == {"accuracy"}


def test_weights_that_a_loss_does_not_take_are_an_error_before_the_launch(
    data: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="third parameter sample_weights, or return a loss for"):
        train(data, tmp_path / "out", "keras_forms", input_fn="weighted_feed", loss="scalar")


def test_a_processor_is_given_every_output(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSED", str(tmp_path / "processed"))
    trained = train(data, tmp_path / "out", "published.functional").output
    result = elasticdl.predict(
        trained_model=trained,
        data=data,
        output=str(tmp_path / "predictions.csv"),
        num_workers=0,
        quiet=True,
    )
    assert (tmp_path / "processed").read_text() == "0 3\n" * RECORDS
    assert result.audit["lost"] == 0
