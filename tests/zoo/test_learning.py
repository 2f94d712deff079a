"""The zoo's models learn on real jobs: a master, two parameter servers and two workers."""

from pathlib import Path

import pytest

import elasticdl
from model_zoo.ctr.make_data import HiddenModel
from model_zoo.ctr.make_data import make as make_ctr

MODEL_ZOO = str(Path(__file__).parents[2] / "model_zoo")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


def train(directory, **options):
    return elasticdl.train(
        model_zoo=MODEL_ZOO,
        data=str(directory / "train" / "*.recordio"),
        validation_data=str(directory / "test" / "*.recordio"),
        output=str(directory / "trained_model"),
        num_ps=2,
        num_workers=2,
        quiet=True,
        **options,
    )


def assert_nothing_lost(result, records):
    assert result.audit["records_expected"] == records
    assert set(result.audit["applied_once"].values()) == {records}
    assert result.audit["lost"] == 0


def test_mnist_reaches_96_percent_on_held_out_images(tmp_path):
    mnist = pytest.importorskip("model_zoo.mnist.make_data", reason="the zoo extra is missing")
    mnist.make(tmp_path)
    result = train(tmp_path, model_def="mnist.MnistElasticDLSpec", num_epochs=12, minibatch_size=32)
    assert result.metrics["accuracy"] >= 0.96
    assert_nothing_lost(result, 12 * 4500)


def test_deepfm_comes_near_the_best_possible_auc(tmp_path):
    hidden = HiddenModel(largest_field=1000)
    best = make_ctr(tmp_path, 100_000, 10_000, num_shards=4, model=hidden)
    result = train(tmp_path, model_def="ctr.DeepFM", num_epochs=3, minibatch_size=256)
    assert best - 0.02 <= result.metrics["auc"] <= best + 0.02
    assert_nothing_lost(result, 3 * 100_000)
