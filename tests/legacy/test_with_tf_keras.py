"""What holds with Keras 3 holds with tf_keras: the same tests, and its own, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import elasticdl
from elasticdl.errors import UsageError
from elasticdl.model.source import read_definition
from tests.job.clicks_data import write_clicks

ROOT = Path(__file__).parents[2]
ZOO = str(Path(__file__).parent / "zoo")
RECORDS = 1200
SAME = ["tests/worker/test_two_phase.py", "tests/layers/test_embedding.py"]
SAME += ["tests/model/test_metrics.py", "tests/model/test_trained_model.py"]
SAME += ["tests/model/test_losses.py", "tests/job/test_own_loss.py"]
SAME += ["tests/layers/test_hosted_embedding.py", "tests/job/test_hosted_embedding.py"]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("files", [["tests/legacy/tf_keras"], SAME], ids=["own", "same"])
def test_promises_hold_with_tf_keras(files: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout


PREDICT = """
import sys, numpy as np, pyarrow.parquet as pq, elasticdl
from tests.legacy.features import features_of
model = elasticdl.load_model(sys.argv[1])
import tf_keras
assert isinstance(model, tf_keras.Model)
predicted = pq.read_table(sys.argv[3]).column("prediction").to_pylist()
answered = np.ravel(model(features_of(sys.argv[2])))
np.testing.assert_allclose(answered, np.ravel(predicted), atol=1e-6)
"""


def test_a_job_of_two_workers_gets_tf_keras_from_its_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    clicks = write_clicks(tmp_path / "clicks", RECORDS)
    result = elasticdl.train(
        model_zoo=ZOO,
        model_def="old.Subclassed",
        data=clicks,
        validation_data=clicks,
        output=str(tmp_path / "out"),
        num_workers=2,
        num_ps=2,
        num_epochs=2,
        minibatch_size=50,
        quiet=True,
    )
    assert result.audit["lost"] == 0
    assert set(result.audit["applied_once"].values()) == {2 * RECORDS}
    assert read_definition(str(tmp_path / "out")).keras == "legacy"
    elasticdl.predict(
        trained_model=str(tmp_path / "out"),
        data=clicks,
        output=str(tmp_path / "predictions.parquet"),
        num_workers=1,
        quiet=True,
    )
    arguments = [str(tmp_path / "out"), clicks, str(tmp_path / "predictions.parquet")]
    subprocess.run([sys.executable, "-c", PREDICT, *arguments], check=True, cwd=ROOT)

    import tensorflow as tf  # of Keras 3, as this process was started

    assert tf.keras.__version__.startswith("3.")
    with pytest.raises(UsageError, match="set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"):
        elasticdl.load_model(str(tmp_path / "out"))
