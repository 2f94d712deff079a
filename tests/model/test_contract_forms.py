"""Keras model classes and modules of functions: every form, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import keras
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import write_zoo

MODULE = """
import tensorflow as tf


def custom_model(units=1):
    inputs = tf.keras.Input((2,), name="x")
    return tf.keras.Model(inputs, tf.keras.layers.Dense(units)(inputs))


def feed(dataset, mode, _):
    return dataset.map(lambda record: (tf.zeros([2]), 1.0))


def loss(labels, predictions):
    return tf.reduce_mean(predictions - labels)


def optimizer(lr=0.1):
    return tf.keras.optimizers.SGD(lr)
"""
MODEL_CLASS = """
class Net(tf.keras.Model):
    def call(self, x):
        return x
"""


def load(directory: Path, code: str = MODULE, model_def: str = "zoo_module", **options: str):
    write_zoo(directory, {"zoo_module.py": code})
    return load_contract(ModelSource(str(directory), model_def, **options), Mode.TRAINING)


@pytest.mark.parametrize("model_def", ["zoo_module", "zoo_module.custom_model"])
def test_params_go_to_the_model_and_its_optimizer(tmp_path: Path, model_def: str) -> None:
    contract = load(tmp_path, model_def=model_def, params="units=3, learning_rate=0.25")
    assert contract.create_model().output_shape == (None, 3)
    assert float(contract.create_optimizer().learning_rate) == 0.25
    assert element_spec(contract, Mode.TRAINING).features.shape.as_list() == [None, 2]


def test_a_file_of_a_directory_is_a_module(tmp_path: Path) -> None:
    write_zoo(tmp_path, {"mnist/functional.py": MODULE, "mnist/__init__.py": ""})
    for name in ("mnist.functional", "mnist.functional.custom_model"):
        contract = load_contract(ModelSource(str(tmp_path), name, loss="loss"), Mode.TRAINING)
        assert float(contract.loss(tf.constant([[3.0]]), tf.constant([[1.0]]))) == 2.0


@pytest.mark.parametrize("order", ["output, labels", "labels, output", "y_true, y_pred", "a, b"])
def test_a_loss_is_called_by_the_names_of_its_parameters(tmp_path: Path, order: str) -> None:
    first = order.startswith(("labels", "y_true", "a"))
    labels, outputs = order.split(", ") if first else order.split(", ")[::-1]
    code = MODULE.replace("labels, predictions", order).replace(
        "predictions - labels", f"{outputs} - {labels}"
    )
    contract = load(tmp_path, code)
    assert float(contract.loss(tf.constant([3.0]), tf.constant([1.0]))) == 2.0


@pytest.mark.parametrize(
    ("signature", "given"),
    [("dataset, mode", 2), ("dataset, mode, metadata", 3), ("d, m, _", 3), ("mode, dataset", 2)],
)
def test_the_input_function_takes_what_it_names(tmp_path: Path, signature: str, given: int) -> None:
    code = MODULE.replace("def feed(dataset, mode, _)", f"def dataset_fn({signature})")
    code = code.replace("dataset.map", "d.map" if signature.startswith("d,") else "dataset.map")
    assert element_spec(load(tmp_path, code), Mode.TRAINING).labels.dtype == tf.float32


def test_a_model_made_on_import_is_copied_with_equal_names_and_values(tmp_path: Path) -> None:
    code = MODULE + "\nmodel = custom_model()\ncustom_model = None\n"
    values = []
    for _ in range(2):
        contract = load(tmp_path, code)
        spec = element_spec(contract, Mode.TRAINING)
        model = TwoPhaseModel(contract, spec.features, spec.labels, seed=5)
        values.append((model.variables, model.initial_dense().tolist()))
    assert values[0] == values[1]
    assert np.any(values[0][1])


@pytest.mark.parametrize(
    "optimizer",
    ["SGD(lr=0.5)", "sgd(learning_rate=0.5)", "keras.optimizers.SGD(0.5)", "tf.optimizers.SGD(.5)"],
)
def test_an_optimizer_of_keras_is_named_by_a_call(tmp_path: Path, optimizer: str) -> None:
    made = load(tmp_path, optimizer=optimizer).create_optimizer()
    assert (type(made).__name__, float(made.learning_rate)) == ("SGD", 0.5)


@pytest.mark.parametrize(
    ("optimizer", "rate"), [("Adam", 0.25), ("optimizer", 0.25), ("make(base=2.0)", 0.5)]
)
def test_an_optimizer_of_an_option_takes_the_learning_rate_of_params(
    tmp_path: Path, optimizer: str, rate: float
) -> None:
    code = MODULE + (
        "\ndef make(base, learning_rate):\n"
        "    return tf.keras.optimizers.SGD(lr=base * learning_rate)\n"
    )
    made = load(tmp_path, code, optimizer=optimizer, params="lr=0.25").create_optimizer()
    assert float(made.learning_rate) == rate


def test_lr_is_the_learning_rate_in_the_users_code_too(tmp_path: Path) -> None:
    code = MODULE.replace("SGD(lr)", "Adagrad(lr=lr, initial_accumulator_value=0.5)")
    made = load(tmp_path, code, params="lr=0.75").create_optimizer()
    assert float(made.learning_rate) == 0.75
    with pytest.raises(ValueError, match="lr"):
        keras.optimizers.SGD(lr=0.1)  # Keras 3's own again; tf_keras warns


def test_a_call_in_an_option_is_parsed_and_never_evaluated(tmp_path: Path) -> None:
    for text in ("SGD(open('x', 'w'))", "SGD(__import__('os').getcwd())", "SGD(*[1])"):
        with pytest.raises(UsageError):
            load(tmp_path, optimizer=text).create_optimizer()
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        (MODULE.replace("def feed", "def read"), {}, "nothing reads the data; define feed("),
        (MODULE.replace("def custom_model", "def net"), {}, "the module makes no model; define"),
        (
            MODULE.replace("def custom_model", "def net")
            + MODEL_CLASS.replace("Net", "A")
            + MODEL_CLASS.replace("Net", "B"),
            {},
            "the module defines 'A', 'B'; say which: zoo_module.A",
        ),
        (MODULE, {"model_def": "zoo_module.nothing"}, "has no 'nothing'; it defines 'custom_mo"),
        (MODULE + "\nnumber = 3\n", {"model_def": "zoo_module.number"}, "is a builtins.int; name"),
        (MODULE, {"params": "depth=3"}, "does not take it; it takes 'units', 'learning_rate'"),
        (MODULE, {"optimizer": "Adm"}, "has no 'Adm'; it defines 'custom_model', 'feed', 'loss',"),
        (MODULE, {"optimizer": "Adm"}, "; Keras has 'Adam'"),
        (MODULE, {"optimizer": "adamm"}, "; Keras has 'Adam'"),
        (
            MODULE,
            {"optimizer": "Adam(learning_rate=CosineDecay(0.1))"},
            "optimizer 'CosineDecay(…)': missing a required argument: 'decay_steps'; it takes init",
        ),
        (MODULE, {"optimizer": "Adam(lerning_rate=0.1)"}, "optimizer 'Adam(…)': Argument(s) not"),
        (MODULE, {"optimizer": "Adam(lerning_rate=0.1)"}, "; it takes learning_rate, beta_1, beta"),
        (
            MODULE,
            {"loss": "Huber(detla=2)"},
            "loss 'Huber(…)': got an unexpected keyword argument 'detla'; it takes delta, ",
        ),
        (MODULE, {"optimizer": "Adam(1"}, "neither a name nor a call with literal arguments; for"),
        (
            MODULE,
            {"optimizer": "SGD(0.1)", "params": "lr=1"},
            "params 'learning_rate': --optimizer function 'SGD(0.1)' gives it too; give it in one",
        ),
        (MODULE, {"class_weight": "{0: -1}"}, "class_weight '{0: -1}': not a dict of weights"),
        (MODULE.replace("def loss", "def lose"), {}, "has no loss; define loss(labels, predict"),
        (MODULE.replace("def optimizer", "def optimize"), {}, "has no optimizer; define opti"),
        (
            MODULE + "\nloss = 'mes'\n",
            {},
            "loss of 'zoo_module': Keras has no loss 'mes'; did you mean 'mse'?",
        ),
        (MODULE, {"loss": "mes"}, "loss', 'optimizer'; Keras has 'mse'"),
        (MODULE, {"loss": "ce()"}, "--loss function 'ce()': means the crossentropy that suits the"),
        (MODULE + "\nloss = {'a': 'mse', 'b': 'mse'}\n", {}, "is 2 losses, but the model has one"),
        (
            MODULE + "\nclass PredictionOutputsProcessor:\n    pass\n",
            {},
            "give a class with process(self, predictions, worker_id)",
        ),
    ],
)
def test_a_wrong_definition_is_one_line_that_says_what_is_right(
    tmp_path: Path, code: str, options: dict[str, str], message: str
) -> None:
    def run() -> None:
        contract = load(tmp_path, code, **options)
        contract.create_model()
        contract.create_optimizer()
        contract.loss(tf.zeros([2, 1]), tf.zeros([2, 1]))
        contract.prediction_outputs_processor()

    with pytest.raises(UsageError) as raised:
        run()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_model_that_is_compiled_needs_nothing_else(tmp_path: Path) -> None:
    code = MODULE.replace("def loss", "def lose").replace("def optimizer", "def optimize") + (
        "\ndef compiled():\n    model = custom_model()\n"
        "    model.compile(optimizer=tf.keras.optimizers.SGD(0.5), loss='mae', metrics=['mse'])\n"
        "    return model\n"
    )
    contract = load(tmp_path, code, "zoo_module.compiled")
    contract.create_model()
    assert float(contract.create_optimizer().learning_rate) == 0.5
    outputs, labels = tf.constant([[3.0]]), tf.constant([[1.0]])
    metrics = Metrics(contract, Mode.EVALUATION)
    assert metrics.result(metrics.measure(outputs, labels, 1)) == {"loss": 2.0, "mse": 4.0}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ('"accuracy"', 0.6),
        ("tf.keras.metrics.BinaryAccuracy()", 0.6),
        ("own", 0.6),
        ("tf.keras.metrics.MeanAbsoluteError()", 0.38),
        ('"mae"', 0.38),
    ],
)
def test_vectors_are_measured_record_by_record(
    tmp_path: Path, metric: str, expected: float
) -> None:
    code = MODULE + (
        "\ndef own(labels, predictions):\n"
        "    return tf.equal(labels, tf.cast(predictions > 0.5, tf.float32))\n"
        f"\ndef eval_metrics_fn():\n    return {{'right': {metric}}}\n"
    )
    contract = load(tmp_path, code)
    outputs, labels = tf.constant([0.9, 0.8, 0.1, 0.2, 0.7]), tf.constant([1.0, 0, 0, 0, 0])
    metrics = Metrics(contract, Mode.EVALUATION)
    metrics.check_mergeable(outputs, labels, 5)
    states = metrics.measure(outputs, labels, 5)
    assert metrics.result(states)["right"] == pytest.approx(expected)


def test_a_vector_that_the_user_gives_to_a_keras_metric_is_explained(tmp_path: Path) -> None:
    code = MODULE + (
        "\nkept = tf.keras.metrics.MeanAbsoluteError()\n"
        "\ndef eval_metrics_fn(labels, predictions):\n"
        "    kept.update_state(labels, predictions)\n    return {'right': kept}\n"
    )
    metrics = Metrics(load(tmp_path, code), Mode.EVALUATION)
    with pytest.raises(UsageError, match=r"take for one record; update it with columns: metric"):
        metrics.check_mergeable(tf.constant([0.9, 0.8, 0.1, 0.2]), tf.constant([1.0, 0, 0, 0]), 4)


def test_a_reader_of_the_users_is_returned_and_its_errors_are_the_users(tmp_path: Path) -> None:
    code = MODULE + (
        "\ndef custom_data_reader(data_origin, records_per_task=None):\n"
        "    return (data_origin, records_per_task)\n"
    )
    reader = load(tmp_path, code).custom_data_reader()
    assert reader is not None
    assert reader("table", records_per_task=7) == ("table", 7)
    assert load(tmp_path).custom_data_reader() is None
