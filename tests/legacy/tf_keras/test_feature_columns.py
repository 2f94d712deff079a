"""Feature columns train as local layers, and their vocabularies are in the exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import elasticdl
from elasticdl.data import example, recordio

ZOO = str(Path(__file__).parents[1] / "zoo")


def test_feature_columns_train_and_are_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    with recordio.Writer(tmp_path / "data.recordio") as writer:
        for _ in range(300):
            record = {
                "age": np.float32(rng.random()),
                "job": str(rng.choice(list("abcx"))),
                "city": f"c{rng.integers(40)}",
                "y": np.float32(rng.random()),
            }
            writer.write(example.encode(record))
    result = elasticdl.train(
        model_zoo=ZOO,
        model_def="columns.Spec",
        data=str(tmp_path / "data.recordio"),
        output=str(tmp_path / "out"),
        num_workers=0,
        minibatch_size=30,
        num_epochs=2,
        quiet=True,
    )
    assert result.history[1]["loss"] < result.history[0]["loss"]
    features = {
        "age": tf.constant([[0.1], [0.9]]),
        "job": tf.constant([["a"], ["unheard of"]]),
        "city": tf.constant([["c1"], ["c2"]]),
    }
    expected = elasticdl.load_model(str(tmp_path / "out"))(features).numpy()
    served = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    (answered,) = served.signatures["serving_default"](**features).values()
    np.testing.assert_allclose(answered, expected, atol=1e-6)
    assert expected[0] != expected[1]
