"""Metrics as states that add up to the metric over all records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.keras_api import keras
from elasticdl.model.metric_states import from_json, means, merge, to_json
from elasticdl.model.metrics import Metrics, _flat
from elasticdl.model.mode import Mode
from tests.model_zoos import contract_of

RNG = np.random.default_rng(0)
OUTPUTS = RNG.uniform(size=(50, 1)).astype(np.float32)
LABELS = (RNG.uniform(size=(50, 1)) < OUTPUTS).astype(np.float32)

FRESH = '{"auc": keras.metrics.AUC(), "accuracy": keras.metrics.BinaryAccuracy()}'
UPDATED = """self.updated({
    "auc": keras.metrics.AUC(), "accuracy": keras.metrics.BinaryAccuracy()}, labels, outputs)"""
CACHED = "self.cached"
CACHED_UPDATED = "self.updated(self.cached, labels, outputs)"
TENSOR = '{"accuracy": tf.reduce_mean(tf.cast(tf.equal(outputs > 0.5, labels > 0.5), tf.float32))}'


SPEC = """
import tensorflow as tf
from tensorflow import keras
from elasticdl import ElasticDLSpec


class Spec(ElasticDLSpec):
    def __init__(self):
        self.cached = {FRESH}

    def updated(self, metrics, labels, outputs):
        for metric in metrics.values():
            metric.update_state(labels, outputs)
        return metrics

    def create_model(self): pass
    def create_optimizer(self): pass
    def create_dataset(self, dataset, mode): pass

    def create_loss(self, outputs, labels):
        return tf.reduce_mean(tf.square(outputs - labels))

    def create_metrics(self, mode, outputs, labels, predictions):
        return {returned}
"""


def metrics_of(directory: Path, returned: str) -> Metrics:
    return Metrics(
        contract_of(directory, SPEC.format(FRESH=FRESH, returned=returned)), Mode.EVALUATION
    )


def measured(metrics: Metrics, sizes: list[int]) -> dict[str, float]:
    states: dict = {}
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        outputs, labels = tf.constant(OUTPUTS[part]), tf.constant(LABELS[part])
        of_part = metrics.measure(outputs, labels, size)
        states = merge(states, from_json(json.loads(json.dumps(to_json(of_part)))))
        start += size
    return metrics.result(states)


@pytest.mark.parametrize("returned", [FRESH, UPDATED, CACHED, CACHED_UPDATED])
def test_keras_metrics_merge_however_they_are_kept(tmp_path: Path, returned: str) -> None:
    results = measured(metrics_of(tmp_path, returned), [20, 7, 1, 22])
    auc, accuracy = keras.metrics.AUC(), keras.metrics.BinaryAccuracy()
    auc.update_state(LABELS, OUTPUTS)
    accuracy.update_state(LABELS, OUTPUTS)
    assert results["auc"] == pytest.approx(float(auc.result()), rel=1e-6)
    assert results["accuracy"] == pytest.approx(float(accuracy.result()), rel=1e-6)
    assert results["loss"] == pytest.approx(float(np.mean((OUTPUTS - LABELS) ** 2)), rel=1e-6)


def test_tensors_are_weighted_by_records(tmp_path: Path) -> None:
    results = measured(metrics_of(tmp_path, TENSOR), [20, 7, 1, 22])
    assert results["accuracy"] == pytest.approx(np.mean((OUTPUTS > 0.5) == (LABELS > 0.5)))


def test_means_need_no_tensorflow_to_finish(tmp_path: Path) -> None:
    states = metrics_of(tmp_path, TENSOR).measure(tf.constant(OUTPUTS), tf.constant(LABELS), 50)
    assert set(means(states)) == {"accuracy", "loss"}


@pytest.mark.parametrize("returned", [FRESH, UPDATED, CACHED, TENSOR, "{}"])
def test_what_adds_up_passes_the_check(tmp_path: Path, returned: str) -> None:
    metrics_of(tmp_path, returned).check_mergeable(tf.constant(OUTPUTS), tf.constant(LABELS), 50)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ('{"largest": tf.reduce_max(outputs)}', "metric 'largest': the tensor is not a mean"),
        (
            '{"rms": tf.sqrt(tf.reduce_mean(tf.square(outputs - labels)))}',
            "metric 'rms': the tensor is not a mean over records",
        ),
        ('{"each": outputs}', "metric 'each' is of shape (25, 1); return a scalar tensor"),
        ('{"text": b"high"}', "metric 'text' is a bytes; return a scalar tensor or a Keras metric"),
        ('{"text": "high"}', "Keras has no metric 'high'; give one such as 'accuracy', 'mae' or"),
        ("{1: outputs}", "returns a builtins.dict; return a dict of tensors, functions of"),
    ],
)
def test_what_does_not_add_up_is_an_error(tmp_path: Path, returned: str, message: str) -> None:
    metrics = metrics_of(tmp_path, returned)
    with pytest.raises(UsageError) as raised:
        metrics.check_mergeable(tf.constant(OUTPUTS), tf.constant(LABELS), 50)
    assert message in str(raised.value)


def test_a_metric_that_was_updated_to_nothing_is_not_updated_again(tmp_path: Path) -> None:
    returned = "self.updated({'hits': keras.metrics.TruePositives()}, labels * 0, outputs)"
    assert measured(metrics_of(tmp_path, returned), [20, 30])["hits"] == 0


@pytest.mark.parametrize("metric", ["keras.metrics.MeanAbsoluteError()", "self.error"])
def test_the_result_of_a_keras_metric_is_a_mean_like_any_other(tmp_path: Path, metric: str) -> None:
    returned = (
        f"{{n: m.result() for n, m in self.updated({{'e': {metric}}}, labels, outputs).items()}}"
    )
    metrics = metrics_of(tmp_path, returned)
    metrics._contract.owner.error = keras.metrics.MeanAbsoluteError()  # type: ignore[attr-defined]
    results = measured(metrics, [20, 7, 1, 22])
    assert results["e"] == pytest.approx(float(np.mean(np.abs(OUTPUTS - LABELS))), rel=1e-6)


def test_a_loss_that_sums_does_not_fail_the_check(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, "{}")
    metrics._contract.loss = lambda outputs, labels, weights: tf.reduce_sum(outputs)  # type: ignore[method-assign]
    metrics.check_mergeable(tf.constant(OUTPUTS), tf.constant(LABELS), 50)


def test_a_metric_without_a_name_has_the_same_one_every_time(tmp_path: Path) -> None:
    kept = "self.__dict__.setdefault('kept', [keras.metrics.Recall()])"
    for index in range(2):
        made = metrics_of(tmp_path / f"made{index}", "[keras.metrics.Precision()]")
        own = metrics_of(tmp_path / f"kept{index}", kept)
        for _ in range(2):
            assert set(measured(made, [4, 3])) == {"loss", "precision"}
            assert set(measured(own, [4, 3])) == {"loss", "recall"}


def test_metrics_by_output_share_labels_that_are_one_tensor(tmp_path: Path) -> None:
    by_output = "{'a': {'mae': 'mae'}, 'b': [keras.metrics.MeanAbsoluteError(name='mae')]}"
    code = SPEC.format(FRESH=FRESH, returned=by_output)
    contract = contract_of(tmp_path, code)
    outputs = {"a": tf.constant(OUTPUTS), "b": tf.constant(OUTPUTS) + 1.0}
    found = contract.metrics(Mode.EVALUATION, outputs, tf.constant(LABELS), outputs)
    kept = {name: each.result() for name, each in found.items() if hasattr(each, "result")}
    values = {name: float(each) for name, each in {**found, **kept}.items()}
    errors = [float(np.mean(np.abs(LABELS - each))) for each in (OUTPUTS, OUTPUTS + 1)]
    assert values == pytest.approx({"a_mae": errors[0], "b_mae": errors[1]}, rel=1e-5)


def test_a_result_of_one_class_has_the_metrics_own_name():
    metric = keras.metrics.F1Score(threshold=0.5)
    metric.update_state(np.ones((4, 1)), np.ones((4, 1)))
    assert _flat("f1", metric.result()) == {"f1": 1.0}
    assert _flat("f1", np.array([0.5, 1.0])) == {"f1_0": 0.5, "f1_1": 1.0}
