"""Jobs of tf_keras models in one process equal tf_keras by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import elasticdl
from elasticdl.data.recordio import Scanner
from elasticdl.model.building import build_model
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import variable_path
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from tests.job.clicks_data import write_clicks

ZOO = str(Path(__file__).parents[1] / "zoo")
RECORDS = 600


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clicks(tmp_path_factory.mktemp("clicks"), RECORDS)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


def train(clicks: str, output: Path, model_def: str, **options):
    return elasticdl.train(
        model_zoo=ZOO,
        model_def=model_def,
        data=clicks,
        output=str(output),
        num_workers=0,
        num_ps=3,
        minibatch_size=50,
        staleness=0,
        shuffle=False,
        records_per_task=RECORDS,
        quiet=True,
        seed=3,
        **options,
    )


def records_of(clicks: str) -> tf.data.Dataset:
    files = [clicks.replace("*", f"clicks-{index}") for index in range(2)]
    return tf.data.Dataset.from_tensor_slices(
        [record for file in files for record in Scanner(file)]
    )


def test_a_job_equals_fit_and_its_evaluation_equals_evaluate(clicks: str, tmp_path: Path) -> None:
    result = train(clicks, tmp_path / "out", "old.Functional", num_epochs=2, validation_data=clicks)
    with np.load(tmp_path / "out" / "params.npz") as archive:
        trained = {name: archive[name] for name in archive.files}

    contract = load_contract(ModelSource(ZOO, "old.Functional", keras="legacy"), Mode.TRAINING)
    features = element_spec(contract, Mode.TRAINING).features
    model = build_model(contract, features, seed=3)
    assert isinstance(model, tf_keras.Model)
    optimizer = contract.create_optimizer()
    assert float(optimizer.learning_rate) == pytest.approx(0.2)
    model.compile(
        optimizer,
        tf_keras.losses.BinaryCrossentropy(from_logits=True),
        [tf_keras.metrics.AUC(name="auc", from_logits=True, num_thresholds=50)],
    )
    data = contract.dataset(records_of(clicks), Mode.TRAINING)
    data = data.map(lambda features, label: (features, label[None])).batch(50)
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert {variable_path(each) for each in model.variables} == set(trained)
    for variable in model.variables:
        name = variable_path(variable)
        np.testing.assert_allclose(trained[name], variable.numpy(), atol=5e-6, err_msg=name)

    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    assert result.metrics["auc"] == pytest.approx(evaluated["auc"], abs=1e-4)
    assert elasticdl.evaluate(
        trained_model=str(tmp_path / "out"), data=clicks, num_workers=0, quiet=True
    ).metrics == pytest.approx(result.metrics, abs=1e-6)


@pytest.mark.parametrize("model_def", ["old.Functional", "old.Subclassed"])
def test_the_trained_model_answers_alike_loaded_and_served(
    clicks: str, tmp_path: Path, model_def: str
) -> None:
    result = train(clicks, tmp_path / "out", model_def)
    assert set(result.audit["applied_once"].values()) == {RECORDS}
    loaded = elasticdl.load_model(str(tmp_path / "out"))
    assert isinstance(loaded, tf_keras.Model)
    serve = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    rng = np.random.default_rng(0)
    features = {
        "ids": tf.constant(rng.integers(0, 200, [40, 3]) ** 5, tf.int64),
        "number": tf.constant(rng.normal(size=[40, 1]), tf.float32),
    }
    expected = loaded(features).numpy()
    assert np.ptp(expected) > 0
    (served,) = serve.signatures["serving_default"](**features).values()
    np.testing.assert_allclose(served, expected, atol=1e-6)


def test_a_repeated_job_is_the_same_dropout_included(clicks: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(clicks, tmp_path / name, "old.Subclassed")
    with np.load(tmp_path / "a/params.npz") as a, np.load(tmp_path / "b/params.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
