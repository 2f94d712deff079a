"""An evaluation says what `model.evaluate` says of the same parameters."""

from __future__ import annotations

import pytest

import elasticdl
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.keras_evaluate import keras_evaluate


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def test_the_numbers_are_those_of_model_evaluate_on_the_trained_model(tmp_path):
    data = write_clicks(tmp_path / "clicks", 640)
    output = str(tmp_path / "model")
    options = {"num_workers": 0, "num_ps": 2, "minibatch_size": 32, "quiet": True}
    trained = elasticdl.train(
        model_zoo=ZOO,
        model_def="regularized.Regularized",
        data=data,
        validation_data=data,
        output=output,
        num_epochs=2,
        **options,
    )
    evaluated = elasticdl.evaluate(trained_model=output, data=data, **options)
    expected = keras_evaluate(output, data, 32)
    assert expected["loss"] > 0.3, "it has something to measure"
    assert trained.metrics == pytest.approx(expected, abs=1e-6)
    assert evaluated.metrics == pytest.approx(expected, abs=1e-6)
