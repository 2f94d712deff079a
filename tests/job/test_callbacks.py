"""Callbacks in whole jobs: the same decisions as `model.fit` takes from the same numbers."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import elasticdl
from elasticdl.api.result import JobResult
from elasticdl.data import example
from elasticdl.data.recordio import Scanner
from elasticdl.errors import UserCodeError
from elasticdl.model.building import build_model
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from tests.job.clicks_data import ZOO, write_clicks

RECORDS, MINIBATCH = 320, 32


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clicks(tmp_path_factory.mktemp("clicks"), RECORDS, num_files=1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def train(clicks: str, output: Path, kind: str, path: object = "", **options: Any) -> JobResult:
    given = {
        "model_zoo": ZOO,
        "model_def": "called_back.CalledBack",
        "params": f"kind='{kind}'; path='{path}'",
        "data": clicks,
        "validation_data": clicks,
        "output": str(output),
        "num_workers": 0,
        "num_ps": 2,
        "minibatch_size": MINIBATCH,
        "num_epochs": 6,
        "shuffle": False,
        "staleness": 0,
        "quiet": True,
    }
    return elasticdl.train(**{**given, **options})


def arrays_of(clicks: str) -> tuple[np.ndarray, np.ndarray]:
    examples = [example.decode(record) for record in Scanner(glob.glob(clicks)[0])]
    labels = np.array([float(one["label"][0]) for one in examples], np.float32)[:, None]
    return np.stack([one["number"] for one in examples]), labels


def fit(
    clicks: str, kind: str, path: object = "", epochs: int = 6
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Let `model.fit` train the same model on the same records, with the same callbacks."""
    params = f"kind='{kind}'; path='{path}'"
    source = ModelSource(ZOO, "called_back.CalledBack", params)
    contract = load_contract(source, Mode.TRAINING)
    model = build_model(contract, element_spec(contract, Mode.TRAINING).features, seed=0)
    model.compile(
        contract.create_optimizer(),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")],
    )
    number, labels = arrays_of(clicks)
    history = model.fit(
        {"number": number},
        labels,
        validation_data=({"number": number}, labels),
        validation_batch_size=MINIBATCH,
        batch_size=MINIBATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=contract.callbacks(),
    )
    return model, history.history


def weights_of(model: keras.Model) -> np.ndarray:
    return np.concatenate([each.ravel() for each in model.get_weights()])


@pytest.mark.parametrize("kind", ["early_stopping", "plateau", "scheduler"])
def test_a_job_does_what_fit_does_with_the_same_callbacks(
    clicks: str, tmp_path: Path, kind: str
) -> None:
    result = train(clicks, tmp_path / "model", kind)
    model, history = fit(clicks, kind)
    plain = fit(clicks, "")
    if kind == "early_stopping":
        assert 1 < len(history["loss"]) < 6, "it has something to stop"
    else:
        assert not np.allclose(weights_of(plain[0]), weights_of(model), atol=1e-3)
    assert len(result.history) == len(history["loss"])
    for ours, *theirs in zip(
        result.history, history["loss"], history["val_loss"], history["val_accuracy"], strict=True
    ):
        numbers = [ours["loss"], ours["val_loss"], ours["val_accuracy"]]
        assert numbers == pytest.approx(theirs, abs=2e-6)
    trained = elasticdl.load_model(result.output)
    np.testing.assert_allclose(weights_of(trained), weights_of(model), atol=1e-5)


def test_rates_and_limits_by_steps_are_kept_exactly(clicks: str, tmp_path: Path) -> None:
    result = train(clicks, tmp_path / "model", "versions")
    assert result.audit["minibatches"] == 33
    model, _ = fit(clicks, "", epochs=2)
    model.optimizer.learning_rate = 0.05
    number, labels = arrays_of(clicks)
    model.fit({"number": number}, labels, batch_size=MINIBATCH, shuffle=False, verbose=0)
    model.fit({"number": number[:96]}, labels[:96], batch_size=MINIBATCH, shuffle=False, verbose=0)
    trained = elasticdl.load_model(result.output)
    np.testing.assert_allclose(weights_of(trained), weights_of(model), atol=1e-5)


def story_of(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 1, "all in one process"
    return [line.partition(" ")[2] for line in lines]


def test_hooks_are_called_once_each_in_the_order_of_fit(clicks: str, tmp_path: Path) -> None:
    story = tmp_path / "story"
    train(clicks, tmp_path / "model", "story", story, num_epochs=2)
    told = story_of(story)
    fit(clicks, "story", tmp_path / "of_fit", epochs=2)
    of_fit = story_of(tmp_path / "of_fit")
    # fit measures accuracy on the training data too.
    expected = [line.replace("accuracy loss val_a", "loss val_a") for line in of_fit]
    assert told == expected
    assert told[:3] == ["train_begin", "epoch_begin 0", "test_begin"]
    assert "epoch_end 0 loss val_accuracy val_loss" in told


def test_a_callback_that_stops_training_stops_the_job(clicks: str, tmp_path: Path) -> None:
    story = tmp_path / "story"
    result = train(clicks, tmp_path / "model", "stops", story)
    assert len(result.history) == 2
    assert [line for line in story_of(story) if "train" in line] == ["train_begin", "train_end"]
    assert result.audit["lost"] == 0
    assert set(result.audit["applied_once"].values()) == {2 * RECORDS}
    assert elasticdl.load_model(result.output).count_params() > 0


def test_an_exception_of_a_callback_fails_the_job_with_its_traceback(
    clicks: str, tmp_path: Path
) -> None:
    with pytest.raises(UserCodeError, match="on_epoch_end of callback 'Story'") as raised:
        train(clicks, tmp_path / "model", "raises", tmp_path / "story")
    assert raised.value.exit_code == 1
    assert 'raise KeyError("val_recall")' in raised.value.traceback_text
    assert story_of(tmp_path / "story").count("epoch_end 0 loss val_accuracy val_loss") == 1


def test_the_best_model_kept_is_that_of_the_best_evaluation(clicks: str, tmp_path: Path) -> None:
    best = tmp_path / "best"
    result = train(
        clicks,
        tmp_path / "model",
        "best",
        f"{best}.keras",
        model_def="called_back.Worse",
        num_epochs=3,
    )
    losses = [epoch["val_loss"] for epoch in result.history]
    assert losses.index(min(losses)) not in (0, len(losses) - 1), "neither the first nor the last"
    for path, expected in ((best, min(losses)), (result.output, losses[-1])):
        found = elasticdl.evaluate(
            trained_model=str(path),
            data=clicks,
            num_workers=0,
            minibatch_size=MINIBATCH,
            quiet=True,
        )
        assert found.metrics["loss"] == pytest.approx(expected, abs=1e-6)
