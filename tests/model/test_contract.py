"""What a definition must give, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
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
        ({"create_model": "return None"}, "create_model", "create_model returns None; return a ke"),
        (
            {"create_optimizer": "return tf.train.GradientDescentOptimizer(0.1)"},
            "create_optimizer",
            "create_optimizer uses tf.train.GradientDescentOptimizer, which TensorFlow 2 does not "
            "have; use tf.keras.optimizers.SGD",
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
        ({"create_dataset": "return 3"}, "spec", "create_dataset of 'definition.Spec': returns a builtins.int; return a"),
        (
            {"create_dataset": "return dataset.map(lambda r: (r, r, r))"},
            "spec",
            "yields tuples of 3; yield (features, labels)",
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
