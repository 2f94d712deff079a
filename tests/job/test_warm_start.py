"""Jobs that begin with the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elasticdl
from elasticdl.errors import UsageError
from tests.job.clicks_data import ZOO, write_clicks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clicks(tmp_path_factory.mktemp("data"), 400)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def train(data: str, output: Path, **options: Any) -> dict[str, np.ndarray]:
    """The weights that a job in this process ends with."""
    given = {
        "model_zoo": ZOO,
        "model_def": "clicks.Clicks",
        "data": data,
        "output": str(output),
        "num_workers": 0,
        "minibatch_size": 16,
        "quiet": True,
    }
    elasticdl.train(**{**given, **options})
    with np.load(output / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_a_job_begins_with_the_weights_of_a_trained_model(data: str, tmp_path: Path) -> None:
    first = train(data, tmp_path / "first")
    # With a learning rate of nothing, what it begins with is what it ends with.
    again = train(
        data,
        tmp_path / "again",
        warm_start=str(tmp_path / "first"),
        params="learning_rate=0.0",
        seed=77,
        num_ps=3,
    )
    assert again.keys() == first.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_a_job_begins_with_the_weights_of_a_checkpoint(data: str, tmp_path: Path) -> None:
    first = train(data, tmp_path / "first", job_dir=str(tmp_path / "job"), num_ps=2)
    last = sorted((tmp_path / "job" / "checkpoints").iterdir())[-1]
    again = train(data, tmp_path / "again", warm_start=str(last), params="learning_rate=0.0")
    # The rows of ids that the training saw, and no others.
    assert again.keys() == first.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_another_model_is_refused_before_anything_is_launched(data: str, tmp_path: Path) -> None:
    train(data, tmp_path / "first")
    with pytest.raises(UsageError, match=r"warm_start '.*': .* is of .* in the model, but of"):
        train(data, tmp_path / "wide", warm_start=str(tmp_path / "first"), params="dim=6")
    assert not (tmp_path / "wide").exists()
