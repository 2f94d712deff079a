"""The check before a launch: what a model is, and every error that can be known by then."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from elasticdl.data.example import encode
from elasticdl.data.recordio import Writer
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.user_code import ModelCodeError
from elasticdl.worker.check import check
from tests.model_zoos import MNIST, general, write_zoo

EMBEDDED = """
def create_model():
    i = keras.Input((2,), dtype="int64", name="i")
    x = keras.Input((3,), name="x")
    v = keras.Input((None,), dtype="int64", sparse=True, name="v")
    joined = keras.layers.Concatenate()([Embedding(4, combiner="sum", name="ids")(i), x])
    return keras.Model({"i": i, "x": x, "v": v}, keras.layers.Dense(1)(joined))
"""


def write_images(path: Path, count: int = 20) -> None:
    rng = np.random.default_rng(0)
    with Writer(path) as writer:
        for number in range(count):
            image = rng.uniform(size=16).astype(np.float32)
            writer.write(encode({"image": image, "label": np.array([number % 10])}))


def job(tmp_path: Path, code: str, name: str, **options) -> JobSpec:
    zoo = write_zoo(tmp_path / "zoo", {"definition.py": code})
    return JobSpec(
        command="check",
        model_zoo=str(zoo),
        model_def=f"definition.{name}",
        data=str(tmp_path / "*.recordio"),
        **options,
    )


def mnist(tmp_path: Path, old: str = "", new: str = "", **options) -> JobSpec:
    """Return a check of the image model with one thing of it replaced."""
    assert old in MNIST
    write_images(tmp_path / "train.recordio")
    return job(tmp_path, MNIST.replace(old, new, 1), "MnistElasticDLSpec", **options)


def test_the_report_says_what_the_model_is(tmp_path: Path) -> None:
    report = check(mnist(tmp_path, minibatch_size=8, params="hidden_units=[5], lr=0.5"))
    assert (report.num_records, report.minibatch_records) == (20, 8)
    assert [(each.name, each.shape) for each in report.features] == [("image", [None, 4, 4])]
    assert [each.num_bytes for each in report.variables] == [320, 20, 200, 40]
    assert report.dense_bytes == 580
    assert report.optimizer is not None
    assert "sgd" in report.optimizer
    assert "0.5" in report.optimizer
    assert report.loss == pytest.approx(report.metrics["loss"], rel=1e-5)
    assert 0 <= report.metrics["accuracy"] <= 1
    assert report.warnings == []
    again = json.loads(json.dumps(dataclasses.asdict(report)))
    assert again["tables"] == []
    for words in ("image: float32 [?, 4, 4]", "580 bytes on the parameter servers", "accuracy"):
        assert words in report.text()


def test_the_report_counts_embedding_tables(tmp_path: Path) -> None:
    with Writer(tmp_path / "train.recordio") as writer:
        for number in range(10):
            record = {"i": np.array([number, 3]), "v": np.array([1]), "x": np.zeros(3, np.float32)}
            writer.write(encode({**record, "y": np.array([1.0], np.float32)}))
    report = check(job(tmp_path, general(EMBEDDED), "Spec"))
    (table,) = report.tables
    assert (table.name, table.dim, table.row_bytes) == ("ids", 4, 32)
    assert (table.ids_in_minibatch, table.distinct_in_minibatch) == (20, 10)
    assert "10 distinct of 20 ids" in report.text()


def test_a_loss_that_is_not_finite_is_a_warning(tmp_path: Path) -> None:
    report = check(mnist(tmp_path, "tf.reduce_mean(", "float('nan') * tf.reduce_mean("))
    (warning,) = report.warnings
    assert "is not finite" in warning
    assert "--on_nan=stop" in warning


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "Dense(10)(x)",
            "Dense(10)(y)",
            "create_model of 'definition.MnistElasticDLSpec': NameErr",
        ),
        ("return tf.reduce_mean(", "return (", "returns a tensor of shape (None,), not a scalar"),
        (
            'example["label"]\n',
            'tf.one_hot(example["label"], 10)\n',
            "(outputs are float32[20, 10], labels float32[20, 10])",
        ),
        ("return dataset.map(parse)", "return dataset.map(parse).repeat()", "never ends; remove"),
        ("optimizers.SGD(lr)", "optimizers.Lamb(lr)", "optimizer 'Lamb': not supported"),
        ("SGD(lr)", "SGD(lr, use_ema=True)", "use_ema=True is not supported"),
        (
            "tf.keras.optimizers.SGD(lr)",
            "tf.train.GradientDescentOptimizer(lr)",
            "use tf.keras.optimizers.SGD",
        ),
        (
            "tf.reduce_mean(tf.cast(right",
            "tf.reduce_sum(tf.cast(right",
            "metric 'accuracy': the te",
        ),
        ("parse_single_example(record", "parse_single_example(record + 'x'", "train.recordio')"),
        (
            "return dataset.map(parse)",
            "return dataset.map(parse).filter(lambda *_: False)",
            "yields",
        ),
        ("import tensorflow as tf", "import tensorflow as tf\n    1 / 0", "ZeroDivisionError"),
    ],
    ids=[
        "model",
        "loss",
        "labels",
        "endless",
        "optimizer",
        "option",
        "old",
        "metric",
        "parse",
        "filter",
        "import",
    ],
)
def test_what_would_fail_the_job_is_one_line_before_launch(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        check(mnist(tmp_path, old, new))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_an_error_of_the_users_code_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ModelCodeError) as raised:
        check(mnist(tmp_path, "x = tf.keras.layers.Flatten()(inputs)", "x = inputs.nothing"))
    assert "x = inputs.nothing" in raised.value.traceback_text
    assert "definition.py" in raised.value.traceback_text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"params": "hiden=3"},
            "params 'hiden': model_def 'definition.MnistElasticDLSpec' does not",
        ),
        ({"loss": "definition.none"}, "loss 'definition.none': module 'definition'"),
        ({"validation_data": "/nowhere/x"}, "validation_data"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check(mnist(tmp_path, **options))
    assert message in str(raised.value)


def write_numbers(path: Path, count: int = 10) -> None:
    with Writer(path) as writer:
        for number in range(count):
            record = {"i": np.array([number, 3]), "v": np.array([1]), "x": np.zeros(3, np.float32)}
            writer.write(encode({**record, "y": np.array([1.0], np.float32)}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "def create_dataset(self, dataset, mode):",
            "def create_dataset(self, dataset, mode):\n        if mode == 'prediction': 1 / 0",
            "ZeroDivisionError",
        ),
        (
            "return example,",
            "example.pop('v') if mode == 'prediction' else 0\n            return example,",
            "in mode prediction but",
        ),
        ('"i": i, "x": x,', '"other": i, "x": x,', "input 'other' is not among the features"),
        (
            'Embedding(4, combiner="sum", name="ids")(i)',
            "keras.layers.Lambda(lambda i, e=Embedding(4, 'sum'): e(i), output_shape=(4,))(i)",
            "does not own it",
        ),
        (
            'i = keras.Input((2,), dtype="int64", name="i")',
            "i = keras.Input((2,), name=\"i\")\n    j = keras.ops.cast(i, 'int64')",
            "went through float32, which rounds large ones",
        ),
        (
            "return example,",
            "example.update({'a b': 1., 'a_b': 2.})\n            return example,",
            "features ['a b'] and ['a_b']: both are 'a_b' in a SavedModel; rename one",
        ),
    ],
    ids=["prediction", "features", "input", "unowned", "float", "clash"],
)
def test_what_would_fail_after_the_training_is_an_error_before_it(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_numbers(tmp_path / "train.recordio")
    code = general(EMBEDDED)
    assert old in code
    code = code.replace(old, new)
    if "j = " in new:
        code = code.replace('name="ids")(i)', 'name="ids")(j)')
    with pytest.raises(UsageError) as raised:
        check(job(tmp_path, code, "Spec"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_tuple_of_features_in_prediction_is_told_from_features_and_labels(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio")
    model = """
    def create_model():
        a, b = keras.Input((2,), dtype="int64"), keras.Input((3,))
        c = keras.layers.Concatenate()([Embedding(4, "sum")(a), b])
        return keras.Model([a, b], keras.layers.Dense(1)(c))
    """
    whole = 'return example, example.pop("y")'
    own = """features = example["i"], example["x"]
            return features if mode == "prediction" else (features, example["y"])"""
    code = general(model)
    assert whole in code
    code = code.replace(whole, own)
    with pytest.raises(UsageError, match=r"read as \(features, labels\); .* return \(\(a, b\),\)"):
        check(job(tmp_path, code, "Spec"))
    code = code.replace("return features if", "return (features,) if")
    assert check(job(tmp_path, code, "Spec")).tables


def test_the_old_layer_casts_ids_that_arrive_as_floats(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio")
    code = general(EMBEDDED).replace(
        "from elasticdl.layers import", "from elasticdl.python.elasticdl.layers.embedding import"
    )
    assert 'keras.Input((2,), dtype="int64", name="i")' in code
    code = code.replace('keras.Input((2,), dtype="int64", name="i")', 'keras.Input((2,), name="i")')
    report = check(job(tmp_path, code, "Spec"))
    assert [each.name for each in report.tables] == ["ids"]
    (warning,) = report.warnings
    assert "went through float32, which rounds large ones" in warning


def test_ids_narrowed_to_int32_are_a_warning(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio")
    code = general(EMBEDDED).replace(
        'keras.Input((2,), dtype="int64"', 'keras.Input((2,), dtype="int32"'
    )
    (warning,) = check(job(tmp_path, code, "Spec")).warnings
    assert "layer 'ids': its ids are int64 in the data but int32" in warning


def test_a_feature_the_model_does_not_take_changes_nothing(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio")
    code = general(EMBEDDED).replace('"x": x, "v": v}', '"x": x}')
    assert check(job(tmp_path, code, "Spec")).tables[0].distinct_in_minibatch == 10


def test_validation_data_that_cannot_be_read_is_an_error_before_launch(tmp_path: Path) -> None:
    with Writer(tmp_path / "held_out") as writer:
        writer.write(b"not an example")
    with pytest.raises(ModelCodeError, match=r"in the first records of '.*held_out'"):
        check(mnist(tmp_path, validation_data=str(tmp_path / "held_out")))


def test_a_file_that_is_filtered_whole_is_passed_over(tmp_path: Path) -> None:
    write_numbers(tmp_path / "a.recordio", 6)
    write_numbers(tmp_path / "b.recordio", 12)
    code = general(EMBEDDED).replace(
        "return dataset.map(parse)", "return dataset.map(parse).filter(lambda x, _: x['i'][0] > 8)"
    )
    report = check(job(tmp_path, code, "Spec", minibatch_size=2))
    assert report.minibatch_records == 1  # the ninth, of those tried


def test_a_loss_that_reshapes_labels_is_not_warned_of(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio")
    assert check(job(tmp_path, general(EMBEDDED), "Spec")).warnings == []
    squeezed = general(EMBEDDED).replace("tf.reshape(outputs, [-1])", "tf.squeeze(outputs, -1)")
    random = ('example.pop("y")', 'example.pop("y") * tf.random.uniform([])')
    assert check(job(tmp_path, squeezed.replace(*random), "Spec")).warnings == []
    code = general(EMBEDDED).replace("tf.reshape(outputs, [-1])", "outputs").replace(*random)
    (warning,) = check(job(tmp_path, code, "Spec")).warnings
    assert "the loss makes a matrix of them" in warning


def test_a_slow_function_of_the_users_does_not_hold_up_the_end(tmp_path: Path) -> None:
    write_numbers(tmp_path / "train.recordio", 64)
    code = general(EMBEDDED).replace(
        "dataset.map(parse)",
        "dataset.map(lambda r: tf.ensure_shape(tf.py_function(work, [r], tf.string), []))"
        ".map(parse).prefetch(50)",
    )
    code += "\n\ndef work(record):\n    import time\n\n    time.sleep(1)\n    return record\n"
    start = time.monotonic()
    assert check(job(tmp_path, code, "Spec", minibatch_size=2)).minibatch_records == 2
    assert time.monotonic() - start < 64  # as long as all records take
