"""The user's own callbacks: hooks in order, a model that is the job's, decisions out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elasticdl.model.contract import Contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import keras
from elasticdl.model.mode import Mode
from elasticdl.worker.callbacks import CallbackError, CallbackHost
from tests.model_zoos import MNIST, contract_of

NUM_DENSE = 16 * 10 + 10 + 10 * 10 + 10
DENSE = np.linspace(-1, 1, NUM_DENSE, dtype=np.float32)
EPOCH_END = {"event": "epoch_end", "epoch": 3, "logs": {"loss": 0.5, "val_loss": 0.75}}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return contract_of(tmp_path_factory.mktemp("zoo"), MNIST, "MnistElasticDLSpec")


def host_of(contract: Contract, *callbacks: Any) -> CallbackHost:
    features = element_spec(contract, Mode.TRAINING).features
    return CallbackHost(contract, features, 0, callbacks, num_epochs=5)


def run(host: CallbackHost, *events: dict[str, Any], rate: float | None = 0.1) -> dict[str, Any]:
    return host.run(events, rate, DENSE, version=7)


class Recorder(keras.callbacks.Callback):
    def __init__(self, name: str, story: list[Any]) -> None:
        super().__init__()
        self.name, self.story = name, story

    def on_train_begin(self, logs=None):
        self.story.append((self.name, "train_begin", self.params["epochs"], self.params["steps"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.story.append((self.name, "epoch_begin", epoch))

    def on_test_begin(self, logs=None):
        self.story.append((self.name, "test_begin"))

    def on_test_end(self, logs=None):
        self.story.append((self.name, "test_end", logs))

    def on_epoch_end(self, epoch, logs=None):
        self.story.append((self.name, "epoch_end", epoch, logs))
        logs["seen"] = True

    def on_train_end(self, logs=None):
        self.story.append((self.name, "train_end", logs))


def test_hooks_are_called_in_the_order_of_events_then_of_callbacks(contract: Contract) -> None:
    story: list[Any] = []
    host = host_of(contract, Recorder("a", story), Recorder("b", story))
    run(host, {"event": "train_begin"}, {"event": "epoch_begin", "epoch": 3})
    run(
        host,
        {"event": "evaluation_begin"},
        {"event": "evaluation_end", "logs": EPOCH_END["logs"]},
        EPOCH_END,
    )
    run(host, {"event": "train_end", "logs": {"loss": 0.5}})
    of_a = [
        ("train_begin", 5, None),
        ("epoch_begin", 3),
        ("test_begin",),
        ("test_end", {"loss": 0.75}),
        ("epoch_end", 3, {"loss": 0.5, "val_loss": 0.75, "seen": True}),
        ("train_end", {"loss": 0.5}),
    ]
    assert [one[1:] for one in story if one[0] == "a"] == of_a
    assert [one[0] for one in story] == ["a", "b"] * 6


def test_a_new_host_begins_the_training_before_it_goes_on(contract: Contract) -> None:
    story: list[Any] = []
    host = host_of(contract, Recorder("a", story))
    run(host, EPOCH_END)
    run(host, EPOCH_END)
    assert [one[1] for one in story] == ["train_begin", "epoch_end", "epoch_end"]


def test_the_model_holds_the_values_and_the_rate_of_the_job(contract: Contract) -> None:
    seen: dict[str, Any] = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen["weights"] = np.concatenate([each.ravel() for each in self.model.get_weights()])
            seen["rate"] = float(self.model.optimizer.learning_rate)
            seen["iterations"] = int(self.model.optimizer.iterations)
            seen["outputs"] = self.model.predict(np.ones((2, 4, 4)), verbose=0).shape

    assert run(host_of(contract, Look()), EPOCH_END, rate=0.25) == {
        "stop": False,
        "learning_rate": None,
    }
    np.testing.assert_array_equal(seen.pop("weights"), DENSE)
    assert seen == {"rate": 0.25, "iterations": 7, "outputs": (2, 10)}


def test_setting_the_rate_and_stopping_are_decisions(contract: Contract) -> None:
    class Decide(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2
            self.model.stop_training = epoch == 3

    host = host_of(contract, Decide())
    assert run(host, EPOCH_END, rate=0.25) == {"stop": True, "learning_rate": 0.125}
    again = run(host, {**EPOCH_END, "epoch": 4}, rate=0.125)
    assert again == {"stop": False, "learning_rate": 0.0625}


def test_keras_s_own_plateau_rule_works_where_its_hooks_were_changed(contract: Contract) -> None:
    class Mine(keras.callbacks.ReduceLROnPlateau):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)

    host, rate = host_of(contract, Mine(factor=0.5, patience=1, mode="min")), 0.2
    for epoch, loss in enumerate([1.0, 1.0, 0.5, 0.5]):
        event = {"event": "epoch_end", "epoch": epoch, "logs": {"val_loss": loss}}
        rate = run(host, event, rate=rate)["learning_rate"] or rate
    assert rate == pytest.approx(0.05)


def test_what_a_callback_raises_comes_with_its_traceback(contract: Contract) -> None:
    class Bad(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyError("val_f1")

    with pytest.raises(CallbackError, match="on_epoch_end of callback 'Bad': KeyError") as raised:
        run(host_of(contract, Bad()), EPOCH_END)
    assert 'raise KeyError("val_f1")' in raised.value.traceback_text


def test_weights_that_a_callback_sets_are_an_error_not_lost_in_silence(contract: Contract) -> None:
    class SetWeights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([each * 0 for each in self.model.get_weights()])

    with pytest.raises(CallbackError, match="weights are on the parameter servers"):
        run(host_of(contract, SetWeights()), EPOCH_END)


def test_a_csv_logger_writes_what_it_writes_in_fit(contract: Contract, tmp_path: Path) -> None:
    host = host_of(contract, keras.callbacks.CSVLogger(str(tmp_path / "log.csv")))
    for epoch in range(2):
        run(host, {"event": "epoch_end", "epoch": epoch, "logs": {"loss": 0.5, "val_loss": 1.0}})
    run(host, {"event": "train_end", "logs": {}})
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {row["val_loss"] for row in rows} == {"1.0"}
