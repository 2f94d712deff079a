"""What a definition must give, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

import elasticdl
from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import keras
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.model.user_code import one_line, user_code, user_traceback
from tests.model_zoos import MNIST, contract_of, write_zoo

MODEL = "tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)])"


def spec_with(**methods: str) -> str:
    """Return a definition with these bodies in place of right ones."""
    bodies = {
        "create_model": f"return {MODEL}",
        "create_optimizer": "return tf.keras.optimizers.SGD(0.5)",
        "create_loss": "return tf.reduce_mean(outputs)",
        "create_dataset": "return dataset.map(lambda record: (tf.zeros([1]), 1.0))",
        **methods,
    }
    arguments = {"create_loss": ", outputs, labels", "create_dataset": ", dataset, mode"}
    lines = ["import tensorflow as tf", "from elasticdl import ElasticDLSpec", ""]
    lines.append("class Spec(ElasticDLSpec):")
    for name, body in bodies.items():
        if body:
            lines += [f"    def {name}(self{arguments.get(name, '')}):", f"        {body}"]
    return "\n".join(lines) + "\n"


def test_an_input_function_that_misses_a_column_is_told_of_the_separator(tmp_path: Path) -> None:
    code = spec_with(create_dataset="return dataset.map(lambda row: (row['x'], row['y']))")
    rows = tf.data.Dataset.from_tensors({"x;y": tf.constant(["1;2"])})
    contract = contract_of(tmp_path, code, columns=("x;y=bytes",))
    with pytest.raises(UserCodeError, match=r"KeyError: 'x'; the only column is 'x;y': .*=';'"):
        contract.dataset(rows, Mode.TRAINING)


def test_the_published_definition_runs(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, MNIST, "MnistElasticDLSpec", "hidden_units=[7], lr=0.25")
    model = contract.create_model()
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [7, 10]
    assert float(contract.create_optimizer().learning_rate) == 0.25
    spec = element_spec(contract, Mode.TRAINING)
    assert spec.features["image"].shape.as_list() == [None, 4, 4]
    assert spec.labels.dtype == tf.int64
    assert element_spec(contract, Mode.PREDICTION).labels is None


def test_the_context_reaches_a_constructor_that_takes_it(tmp_path: Path) -> None:
    code = spec_with(create_model="raise ValueError(self.context['role'], self.context['mode'])")
    write_zoo(tmp_path, {"definition.py": code})
    source = ModelSource(str(tmp_path), "definition.Spec")
    contract = load_contract(source, Mode.EVALUATION, {"role": "worker"})
    with pytest.raises(UserCodeError, match=r"'worker', <Mode.EVALUATION"):
        contract.create_model()


@pytest.mark.parametrize(
    ("methods", "act", "message"),
    [
        ({"create_loss": ""}, "none", "class 'Spec' has no create_loss; define it"),
        ({"create_dataset": ""}, "none", "class 'Spec' has no create_dataset; define it"),
        (
            {"create_model": "return None"},
            "create_model",
            "create_model of 'definition.Spec': returns None; return a ke",
        ),
        (
            {"create_optimizer": "return tf.train.GradientDescentOptimizer(0.1)"},
            "create_optimizer",
            "create_optimizer of 'definition.Spec': uses tf.train.GradientDescentOptimizer, which "
            "TensorFlow 2 does not have; use tf.keras.optimizers.SGD",
        ),
        (
            {"create_optimizer": "return tf.train.AdamOptimizer(0.1)"},
            "create_optimizer",
            "use tf.keras.optimizers.Adam",
        ),
        (
            {"create_optimizer": "return tf.compat.v1.train.GradientDescentOptimizer(0.1)"},
            "create_optimizer",
            "return one of tf.keras.optimizers",
        ),
        (
            {"create_dataset": "return 3"},
            "spec",
            "create_dataset of 'definition.Spec': returns a builtins.int; return a",
        ),
        (
            {"create_dataset": "return dataset.map(lambda r: (r, r, r, r))"},
            "spec",
            "yields tuples of 4; yield (features, labels) or",
        ),
        (
            {"create_dataset": "return dataset"},
            "spec",
            "create_dataset of 'definition.Spec': yields no labels in mode training",
        ),
    ],
)
def test_a_definition_that_is_not_right_is_an_error_in_one_line(
    tmp_path: Path, methods: dict[str, str], act: str, message: str
) -> None:
    def run() -> None:
        contract = contract_of(tmp_path, spec_with(**methods))
        if act == "spec":
            element_spec(contract, Mode.TRAINING)
        else:
            getattr(contract, act)()

    with pytest.raises(UsageError) as raised:
        run()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_method_that_raises_is_named_with_the_users_frames_only(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, spec_with(create_model="return tf.nothing"))
    with pytest.raises(UserCodeError) as raised:
        contract.create_model()
    assert str(raised.value).startswith(
        "create_model of 'definition.Spec': AttributeError: module 'tensorflow' has no attribute"
    )
    assert "return tf.nothing" in raised.value.traceback_text
    assert "contract.py" not in raised.value.traceback_text


def test_an_error_in_the_dataset_function_is_the_users(tmp_path: Path) -> None:
    body = "return dataset.map(lambda record: tf.reshape(record, [1]) + undefined_name)"
    contract = contract_of(tmp_path, spec_with(create_dataset=body))
    with pytest.raises(UserCodeError) as raised:
        element_spec(contract, Mode.TRAINING)
    assert "NameError: name 'undefined_name' is not defined" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_something_else_than_a_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is class 'Spec'; name a class derived from"):
        contract_of(tmp_path, "class Spec: pass\n")


def test_functions_given_by_name_replace_the_definitions_own(tmp_path: Path) -> None:
    code = spec_with() + (
        "\ndef constant(labels, predictions):\n    return predictions - labels\n"
        "\ndef fast(learning_rate=1.0):\n    return tf.keras.optimizers.Adam(learning_rate)\n"
        "\ndef numbers(dataset, mode):\n    return dataset.enumerate()\n"
    )
    contract = contract_of(
        tmp_path,
        code,
        params="learning_rate=3.0",
        loss="constant",
        optimizer="definition.fast",
        input_fn="numbers",
    )
    assert contract.loss(5.0, 3.0) == 2.0
    assert float(contract.create_optimizer().learning_rate) == 3.0
    assert element_spec(contract, Mode.TRAINING).features.dtype == tf.int64
    with pytest.raises(UsageError, match=r"loss 'definition\.missing': module 'definition'"):
        contract_of(tmp_path, code, loss="missing")


@pytest.mark.parametrize(
    "parameters",
    [
        "labels, logits",
        "logits, labels",
        "y_true, y_pred, weight=1.0",
        "labels, scores",
        "scores, targets",
        "*, labels, outputs",
    ],
)
def test_a_loss_gets_its_arguments_by_names_that_are_clear(tmp_path: Path, parameters: str) -> None:
    names = [each for each in parameters.replace("=1.0", "").split(", ") if each != "*"]
    of_labels = next(each for each in names if each in ("labels", "y_true", "targets"))
    of_outputs = next(each for each in names[:2] if each != of_labels)
    code = spec_with() + f"\ndef given({parameters}):\n    return {of_outputs} - 2 * {of_labels}\n"
    assert contract_of(tmp_path, code, loss="given").loss(5.0, 3.0) == -1.0


@pytest.mark.parametrize("parameters", ["a, b", "target, labels", "a, b, temperature=2.0", "*ab"])
def test_a_loss_gets_outputs_and_labels_by_position_otherwise(
    tmp_path: Path, parameters: str
) -> None:
    first, second = ("*ab",) * 2 if parameters == "*ab" else parameters.split(", ")[:2]
    body = "ab[0] - 2 * ab[1]" if parameters == "*ab" else f"{first} - 2 * {second}"
    code = spec_with() + f"\ndef given({parameters}):\n    return {body}\n"
    assert contract_of(tmp_path, code, loss="given").loss(5.0, 3.0) == -1.0


def test_a_keras_loss_object_is_called_as_keras_does(tmp_path: Path) -> None:
    code = spec_with() + "\ngiven = tf.keras.losses.MeanAbsolutePercentageError()\n"
    loss = contract_of(tmp_path, code, loss="given").loss(
        tf.constant([[3.0]]), tf.constant([[2.0]])
    )
    assert float(loss) == pytest.approx(50.0)


def test_an_error_in_a_replacing_function_names_option_and_function(tmp_path: Path) -> None:
    code = spec_with() + "\ndef broken(a, b):\n    raise KeyError('x')\n"
    with pytest.raises(UserCodeError, match=r"^--loss function 'broken': KeyError"):
        contract_of(tmp_path, code, loss="broken").loss(1.0, 2.0)


def test_a_module_that_changed_is_read_again(tmp_path: Path) -> None:
    for number in (5, 9):
        code = spec_with(create_model=f"raise ValueError({number})")
        with pytest.raises(UserCodeError, match=f"ValueError: {number}"):
            contract_of(tmp_path, code).create_model()


def test_predictions_keep_the_order_of_a_shuffled_dataset(tmp_path: Path) -> None:
    body = "return dataset.map(lambda r: (tf.strings.length(r), 1.0)).shuffle(64, seed=3)"
    contract = contract_of(tmp_path, spec_with(create_dataset=body))
    lengths = list(range(1, 21))
    records = tf.data.Dataset.from_tensor_slices(["x" * each for each in lengths])
    orders = {
        mode: [int(each) for each, _ in contract.dataset(records, mode)]
        for mode in (Mode.PREDICTION, Mode.TRAINING)
    }
    assert orders[Mode.PREDICTION] == lengths
    assert sorted(orders[Mode.TRAINING]) == lengths != orders[Mode.TRAINING]


def test_a_dataset_that_batches_itself_is_an_error(tmp_path: Path) -> None:
    contract = contract_of(
        tmp_path,
        spec_with(create_dataset="return dataset.map(lambda r: (tf.zeros([1]), 1.0)).batch(4)"),
    )
    with pytest.raises(UsageError, match=r"remove \.batch\(\): minibatches are made of what"):
        element_spec(contract, Mode.TRAINING)


@pytest.mark.parametrize("arguments", ["self, context", "self, **kwargs"])
def test_the_context_always_says_everything(tmp_path: Path, arguments: str) -> None:
    given = "**kwargs" if "**" in arguments else "context"
    code = spec_with(create_model="raise ValueError(sorted(self.context))") + (
        f"\n    def __init__({arguments}):\n        super().__init__({given})\n"
    )
    keys = "['incarnation', 'index', 'job_name', 'master_address', 'mode', 'role']"
    with pytest.raises(UserCodeError) as raised:
        contract_of(tmp_path, code).create_model()
    assert keys in str(raised.value)


def test_a_constructor_that_takes_no_context_has_one_all_the_same(tmp_path: Path) -> None:
    code = spec_with(create_model="raise ValueError(self.context['role'], self.width)") + (
        "\n    def __init__(self, width):\n        self.width = width\n"
    )
    write_zoo(tmp_path, {"definition.py": code})
    source = ModelSource(str(tmp_path), "definition.Spec", "width=5")
    with pytest.raises(UserCodeError, match=r"'worker', 5"):
        load_contract(source, Mode.TRAINING, {"role": "worker"}).create_model()


def test_callbacks_are_none_unless_defined(tmp_path: Path) -> None:
    assert contract_of(tmp_path, spec_with()).callbacks() == []
    stopping = "return [tf.keras.callbacks.EarlyStopping()]"
    code = spec_with(create_callbacks=stopping)
    assert len(contract_of(tmp_path, code).callbacks()) == 1
    with pytest.raises(
        UsageError, match=r"returns a list with a builtins\.int; return Keras callb"
    ):
        contract_of(tmp_path, spec_with(create_callbacks="return [3]")).callbacks()


def test_only_the_users_own_exit_is_an_error_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match="SystemExit: 3"):
        contract_of(tmp_path, "import sys\nsys.exit(3)\n")
    stopped = compile("raise SystemExit(143)", str(Path(elasticdl.__file__)), "exec")
    with pytest.raises(SystemExit), user_code("x"):
        exec(stopped, {})


def test_the_reason_of_a_graphs_error_is_told() -> None:
    @tf.function
    def reshape(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [3, -1])

    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        reshape.get_concrete_function(tf.TensorSpec([None]))(tf.zeros([8]))
    assert "Input to reshape is a tensor with 8 values" in one_line(raised.value)


def test_a_key_that_a_layer_misses_is_named_in_plain_text() -> None:
    class Net(keras.layers.Layer):
        def call(self, inputs):
            return inputs["missing"]

    with pytest.raises(KeyError) as raised:
        Net()({"x": tf.zeros((1, 2))})
    assert one_line(raised.value) == "KeyError: missing"
    text = user_traceback(raised.value)
    assert "\x1b" not in text
    assert "\\n" not in text
    assert "x1b[" not in text
