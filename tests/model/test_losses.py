"""Losses, metrics and weights count as `model.fit` counts them, in every form they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.building import build_model
from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.keras_api import IS_LEGACY, keras
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from tests.model_zoos import write_zoo

FEED = """
import tensorflow as tf

keras = tf.keras


def feed(dataset, mode, _):
    return dataset.map(lambda record: (tf.zeros([2]), 1.0))


def optimizer():
    return keras.optimizers.SGD(0.1)
"""
NET = """
class Net(keras.Model):
    {}

    def call(self, x):
        return x


loss = "mse"
"""


def load(directory: Path, code: str, **options: str) -> Contract:
    write_zoo(directory, {"zoo_losses.py": FEED + code})
    return load_contract(ModelSource(str(directory), "zoo_losses", **options), Mode.TRAINING)


@pytest.mark.parametrize(
    ("of_class", "of_module"),
    [
        ("loss_weights = None", "class_weight = {0: 0.5}"),
        ("class_weight = {0: 0.5}", ""),
        ("class_weight = {0: 0.5}", "class_weight = {0: 7.0}"),
        ("class_weight = None", "class_weight = {0: 0.5}"),
    ],
)
def test_class_weight_is_of_the_model_class_else_of_its_module(
    tmp_path: Path, of_class: str, of_module: str
) -> None:
    contract = load(tmp_path, NET.format(of_class) + of_module)
    assert contract.class_weight == {0: 0.5}


ONE = """
def custom_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
    {}
    return model
"""
TWO = """
def custom_model():
    inputs = keras.Input((2,))
    a, b = (keras.layers.Dense(1, name=name)(inputs) for name in "ab")
    model = keras.Model(inputs, {{"a": a, "b": b}})
    {}
    return model
"""
COMPILED = "model.compile('sgd', {!r}, loss_weights={!r})"
OF_TWO = {"a": tf.constant([[3.0]]), "b": tf.constant([[5.0]])}
LABELS_OF_TWO = {"a": tf.constant([[1.0]]), "b": tf.constant([[1.0]])}


@pytest.mark.parametrize("weights", [0.5, [0.5], {"a": 0.5}])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_loss_of_one_output_is_weighted(
    tmp_path: Path, weights: object, is_compiled: bool
) -> None:
    given = "" if is_compiled else f"loss = 'mse'\nloss_weights = {weights!r}"
    contract = load(
        tmp_path, ONE.format(COMPILED.format("mse", weights) if is_compiled else "") + given
    )
    contract.create_model()
    assert float(contract.loss(tf.constant([[3.0]]), tf.constant([[1.0]]))) == 2.0


@pytest.mark.parametrize(
    ("code", "sample_weights", "message"),
    [
        ("loss = {'a': 'mse', 'b': 'mse'}\nloss_weights = {'bb': 7.0}", None, "'bb' is no output"),
        ("def loss(labels, predictions):\n    return 0.0\nloss_weights = [1, 1]", None, "rename"),
        ("loss = {'a': 'mse', 'b': 'mse'}", {"A": tf.zeros([1])}, "weights: 'A' is no output"),
    ],
)
def test_weights_that_would_count_nowhere_are_refused(
    tmp_path: Path, code: str, sample_weights: object, message: str
) -> None:
    contract = load(tmp_path, TWO.format("") + code)
    contract.create_model()
    with pytest.raises(UsageError, match=message):
        contract.loss(OF_TWO, LABELS_OF_TWO, sample_weights)


def test_weights_of_one_output_are_one(tmp_path: Path) -> None:
    contract = load(tmp_path, ONE.format("") + "loss = 'mse'\nloss_weights = [1, 2]")
    contract.create_model()
    with pytest.raises(UsageError, match="loss_weights are 2, but the model has one output"):
        contract.loss(tf.zeros([1, 1]), tf.zeros([1, 1]))


OUTPUTS, LABELS = tf.constant([[0.9], [0.4], [0.2]]), tf.constant([1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    "loss", ["'mse'", "'binary_crossentropy'", "keras.losses.binary_crossentropy"]
)
@pytest.mark.parametrize("is_compiled", [True, False])
def test_labels_of_rank_one_beside_columns_are_trained_on_as_in_fit(
    tmp_path: Path, loss: str, is_compiled: bool
) -> None:
    given = f"model.compile('sgd', {loss})" if is_compiled else ""
    contract = load(tmp_path, ONE.format(given) + ("" if is_compiled else f"loss = {loss}"))
    contract.create_model()
    in_columns = float(contract.loss(OUTPUTS, tf.reshape(LABELS, [-1, 1])))
    assert float(contract.loss(OUTPUTS, LABELS)) == pytest.approx(in_columns)
    assert in_columns == pytest.approx(0.27 if loss == "'mse'" else 0.741, abs=1e-3)


def test_a_function_that_a_model_is_compiled_with_is_called_as_in_fit(tmp_path: Path) -> None:
    own = "\ndef own(a, b):\n    return tf.square(a - b)\n"
    contract = load(tmp_path, ONE.format("model.compile('sgd', own)") + own)
    contract.create_model()
    assert float(contract.loss(OUTPUTS, LABELS)) == pytest.approx(0.27)
    of_two = load(
        tmp_path, TWO.format("model.compile('sgd', own, loss_weights={'a': 2, 'b': 1})") + own
    )
    of_two.create_model()
    assert float(of_two.loss(OF_TWO, LABELS_OF_TWO)) == 2 * 4.0 + 16.0


@pytest.mark.parametrize(
    ("metric", "expected"), [("'mse'", 0.27), ("keras.metrics.binary_crossentropy", 0.741)]
)
def test_metrics_of_keras_take_labels_of_rank_one_beside_columns(
    tmp_path: Path, metric: str, expected: float
) -> None:
    code = f"loss = 'mse'\ndef eval_metrics_fn():\n    return {{'error': {metric}}}"
    metrics = Metrics(load(tmp_path, ONE.format("") + code), Mode.EVALUATION)
    states = metrics.measure(OUTPUTS, LABELS, 3)
    assert metrics.result(states)["error"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "made",
    [
        "keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])",
        "keras.Sequential([keras.layers.Dense(1)])\nmodel(tf.zeros([1, 2]))",
    ],
)
def test_a_model_made_on_import_keeps_its_values_and_what_it_is_compiled_with(
    tmp_path: Path, made: str
) -> None:
    code = (
        f"\ndel optimizer\nmodel = {made}\n"
        "model.set_weights([tf.constant(each).numpy() for each in ([[5.0], [6.0]], [7.0])])\n"
        "model.compile(keras.optimizers.SGD(0.25), 'mse', metrics=['mae'], loss_weights=[0.5])\n"
    )
    contract = load(tmp_path, code)
    model = build_model(contract, tf.TensorSpec([None, 2]), seed=1)
    assert [each.tolist() for each in model.get_weights()] == [[[5.0], [6.0]], [7.0]]
    assert float(contract.create_optimizer().learning_rate) == 0.25
    metrics = Metrics(contract, Mode.EVALUATION)
    states = metrics.measure(tf.constant([[3.0]]), tf.constant([[1.0]]), 1)
    assert metrics.result(states) == {"loss": 2.0, "mae": 2.0}


def test_lr_is_the_learning_rate_of_an_optimizer_made_on_import(tmp_path: Path) -> None:
    code = ONE.format("") + "loss = 'mse'\noptimizer = keras.optimizers.SGD(lr=0.3)\n"
    made = load(tmp_path, code).create_optimizer()
    assert float(made.learning_rate) == pytest.approx(0.3)


def test_metrics_of_one_name_are_all_measured(tmp_path: Path) -> None:
    code = (
        "loss = 'mse'\ndef eval_metrics_fn():\n"
        "    return [lambda y, p: tf.reduce_mean(p), lambda y, p: tf.reduce_mean(y), 'mae', 'mae']"
    )
    metrics = Metrics(load(tmp_path, ONE.format("") + code), Mode.EVALUATION)
    results = metrics.result(metrics.measure(OUTPUTS, LABELS, 3))
    results.pop("loss")
    assert {name: round(value, 4) for name, value in results.items()} == {
        "<lambda>": 0.5,
        "<lambda>_1": 0.6667,
        "mae": 0.4333,
        "mae_1": 0.4333,
    }


OF_LISTS = "model = keras.Model(inputs, [a, b])\n    model.compile('sgd', ['mse', 'mae'], metrics="
OF_DICTS = (
    "model = keras.Model(inputs, {{'b': b, 'a': a}})\n"
    "    model.compile('sgd', ['mse', 'mae'], metrics="
)


@pytest.mark.parametrize(
    "metrics",
    [
        "['mae', 'mse']",
        "[['mae', 'mse'], ['mae']]",
        "{'b': ['mse', 'mae']}",
        "[[keras.metrics.MeanAbsoluteError(name='e')], ['mae', 'mse']]",
    ],
)
@pytest.mark.parametrize("is_dict", [False, True])
def test_what_a_model_of_several_outputs_is_compiled_with_is_as_in_evaluate(
    tmp_path: Path, metrics: str, is_dict: bool
) -> None:
    if IS_LEGACY and is_dict:
        pytest.skip("tf_keras takes no lists for outputs that are a dict")
    made = OF_DICTS.replace("{{", "{").replace("}}", "}") if is_dict else OF_LISTS
    contract = load(tmp_path, TWO.format(made + metrics + ")"))
    model = build_model(contract, tf.TensorSpec([None, 2]), seed=1)
    features = tf.random.stateless_normal([3, 2], [1, 2])
    labels = [OUTPUTS, OUTPUTS * 3]
    labels = {"a": labels[0], "b": labels[1]} if is_dict else labels
    measuring = Metrics(contract, Mode.EVALUATION)
    found = measuring.result(measuring.measure(model(features), labels, 3))
    expected = model.evaluate(features, labels, verbose=0, return_dict=True)
    for own in ("a_loss", "b_loss"):
        expected.pop(own, None)
    assert found == pytest.approx(expected, rel=1e-5)


KINDS = {
    "binary": (OUTPUTS, [[1.0], [0.0], [1.0]]),
    "sparse": (tf.concat([OUTPUTS, 1 - OUTPUTS], 1), [1, 0, 1]),
    "categorical": (tf.concat([OUTPUTS, 1 - OUTPUTS], 1), [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
}


@pytest.mark.skipif(IS_LEGACY, reason="tf_keras knows no such name")
@pytest.mark.parametrize("name", ["ce", "Crossentropy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_crossentropy_is_the_one_that_suits_the_labels_as_in_evaluate(
    tmp_path: Path, name: str, kind: str, is_compiled: bool
) -> None:
    outputs, labels = KINDS[kind]
    model = keras.Sequential([keras.Input(outputs.shape[1:]), keras.layers.Identity()])
    model.compile(loss=name)
    expected = model.evaluate(outputs, tf.constant(labels), verbose=0)
    if is_compiled:
        contract = load(tmp_path, ONE.format(f"model.compile('sgd', {name!r})"))
        contract.create_model()
    else:
        contract = load(tmp_path, ONE.format(""), loss=name)
    assert float(contract.loss(outputs, tf.constant(labels))) == pytest.approx(expected, rel=1e-6)


ALIASES = "mse MSE mae BCE kld msle Mse ce CE logcosh log_cosh huber_loss cosine get abc Loss"


@pytest.mark.parametrize("name", [*ALIASES.split(), "kullback_leibler_divergence"])
def test_the_names_of_losses_are_those_that_keras_compiles(tmp_path: Path, name: str) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    try:
        model.compile("sgd", name)
        expected = model.evaluate(model(LABELS[:, None]), LABELS[:, None], verbose=0)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        expected = None
    contract = load(tmp_path, ONE.format(f"model.compile('sgd', {name!r})"))
    contract.create_model()
    found = model(model(LABELS[:, None]))
    if expected is not None:
        given = load(tmp_path, ONE.format(""), loss=name)
        for each in (contract, given):
            assert float(each.loss(found, LABELS[:, None])) == pytest.approx(expected, rel=1e-6)
        return
    with pytest.raises(UsageError, match=f"Keras has no loss '{name}'; ") as raised:
        contract.loss(found, LABELS[:, None])
    assert "\n" not in str(raised.value)
