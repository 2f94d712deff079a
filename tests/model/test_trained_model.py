"""A trained model is enough by itself: moved elsewhere, without the zoo, without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import ElasticDLError, UsageError
from elasticdl.model.building import (
    build_model,
    define_tables,
    define_variables,
    pull_variables,
    table_layers,
)
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import IS_LEGACY
from elasticdl.model.mode import Mode
from elasticdl.model.parameters import Parameters, TableRows
from elasticdl.model.source import ModelSource, read_definition
from elasticdl.model.trained_model import (
    check_output,
    load_model,
    load_parameters,
    write_trained_model,
)
from tests.model_zoos import MNIST, general, write_zoo

KERAS = "legacy" if IS_LEGACY else "3"

MODEL = """
from .parts import pooled


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.user = Embedding(4, name="user", embeddings_initializer="normal")
        self.item = Embedding(4, combiner="mean", name="item")
        self.out = keras.layers.Dense(2)

    @tf.function
    def call(self, features):
        both = pooled(self.user(features["i"])) + self.item(features["v"])
        return {"score": self.out(tf.concat([both, features["x"]], 1)), "both": both}


def create_model():
    return Net()
"""
PARTS = "import tensorflow as tf\n\ndef pooled(x):\n    return tf.reduce_sum(x, 1)\n"
FEATURES = {
    "i": tf.constant([[1, 5], [2**40, 1], [-3, 99]], tf.int64),
    "v": tf.ragged.constant([[7, 8, 7], [], [1]], dtype=tf.int64).to_sparse(),
    "x": tf.constant(np.arange(9).reshape(3, 3), tf.float32),
}
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
inputs = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
outputs = model.signatures["serving_default"](**inputs)
assert not any(name.startswith("elasticdl") for name in sys.modules)
np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
"""


def trained(directory: Path, code: str, name: str) -> tuple[ModelSource, Parameters]:
    """Write a zoo and return its source with parameters other than the initial ones."""
    zoo = write_zoo(directory / "zoo", {"nets/definition.py": code, "nets/parts.py": PARTS})
    source = ModelSource(
        str(zoo), f"nets.definition.{name}", "learning_rate=0.5", seed=11, keras=KERAS
    )
    contract = load_contract(source, Mode.TRAINING)
    model = build_model(contract, element_spec(contract, Mode.PREDICTION).features, 11)
    variables = define_variables(model, pull_variables(model))
    rng = np.random.default_rng(0)
    dense = rng.normal(size=sum(each.num_elements for each in variables)).astype(np.float32)
    tables = {
        table.name: TableRows(
            np.array([5, 2**40, 7, -3]), rng.normal(size=(4, table.dim)).astype(np.float32)
        )
        for table in define_tables(table_layers(model), 11)
    }
    return source, Parameters.of_flat(variables, dense, tables)


def expected(parameters: Parameters, source: ModelSource) -> np.ndarray:
    """Compute ``both`` by hand, unseen ids by the parameter servers' initializers."""
    model = build_model(
        load_contract(source, Mode.TRAINING),
        tf.nest.map_structure(tf.type_spec_from_value, FEATURES),
        11,
    )
    tables = {each.name: each for each in define_tables(table_layers(model), 11)}

    def row(table: str, each: int) -> np.ndarray:
        stored = parameters.tables[table]
        at = np.flatnonzero(stored.ids == each)
        if len(at):
            return stored.rows[at[0]]
        return tables[table].initializer.rows(np.array([each]), 4)[0]

    users = np.stack([sum(row("user", each) for each in ids) for ids in FEATURES["i"].numpy()])
    items = [
        np.mean([row("item", each) for each in ids], axis=0) if ids else np.zeros(4)
        for ids in ([7, 8, 7], [], [1])
    ]
    return users + np.stack(items)


def test_a_moved_model_answers_alike_in_keras_and_in_plain_tensorflow(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, general(MODEL), "Spec")
    wanted = expected(parameters, source)
    write_trained_model(str(tmp_path / "output"), source, parameters)
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (tmp_path / "output").rename(moved)
    shutil.rmtree(tmp_path / "zoo")

    outputs = load_model(str(moved))(FEATURES)
    np.testing.assert_allclose(outputs["both"], wanted, rtol=1e-5, atol=1e-6)

    sparse = FEATURES["v"]
    np.savez(
        tmp_path / "in.npz",
        i=FEATURES["i"],
        x=FEATURES["x"],
        v_indices=sparse.indices,
        v_values=sparse.values,
        v_dense_shape=sparse.dense_shape,
    )
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    files = [str(moved / "saved_model"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-P", str(script), *files], check=True, cwd="/")
    served = np.load(tmp_path / "out.npz")
    assert sorted(served) == ["both", "score"]
    np.testing.assert_allclose(served["both"], outputs["both"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(served["score"], outputs["score"], rtol=1e-5, atol=1e-5)

    schema = json.loads((moved / "schema.json").read_text())
    assert [each["name"] for each in schema["inputs"]] == ["i", "v", "x"]
    assert schema["outputs"] == ["both", "score"]
    again = ModelSource.of_trained_model(str(moved))
    assert (again.model_def, again.params, again.seed) == (source.model_def, source.params, 11)
    assert read_definition(str(moved)).params_filename == "params.npz"


def test_parameters_come_back_as_they_were(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, general(MODEL), "Spec")
    write_trained_model(str(tmp_path / "output"), source, parameters)
    again = load_parameters(str(tmp_path / "output"))
    assert again.dense.keys() == parameters.dense.keys()
    for path, value in parameters.dense.items():
        np.testing.assert_array_equal(again.dense[path], value)
    for name, table in parameters.tables.items():
        np.testing.assert_array_equal(again.tables[name].ids, table.ids)
        np.testing.assert_array_equal(again.tables[name].rows, table.rows)


def test_a_functional_model_of_a_named_input_serves_under_that_name(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, MNIST, "MnistElasticDLSpec")
    path = tmp_path / "output"
    write_trained_model(str(path), source, parameters)
    signature = tf.saved_model.load(str(path / "saved_model")).signatures["serving_default"]
    images = tf.random.stateless_uniform([3, 4, 4], [0, 0])
    (served,) = signature(image=images).values()
    assert list(signature.structured_outputs) == ["outputs"]
    np.testing.assert_allclose(served, load_model(str(path))(images), rtol=1e-5)


def test_a_model_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, MNIST, "MnistElasticDLSpec")
    path = tmp_path / "output"
    origin = {"image": "registry/x@sha256:0", "zoo_origin": "https://x/y", "zoo_commit": "ab"}
    write_trained_model(str(path), replace(source, **origin), parameters)
    definition = read_definition(str(path))
    found = (definition.docker_commit_id, definition.zoo_origin, definition.zoo_commit)
    assert found == tuple(origin.values())
    before = (path / "trained_model.pb").stat().st_ino
    with pytest.raises(UsageError, match="holds a trained model already"):
        write_trained_model(str(path), source, parameters)
    assert (path / "trained_model.pb").stat().st_ino == before
    write_trained_model(str(path), source, parameters, overwrite=True)
    assert (path / "trained_model.pb").stat().st_ino != before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["output", "zoo"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, MNIST, "MnistElasticDLSpec")
    path = tmp_path / "output"
    write_trained_model(str(path), source, parameters)
    wrong = Parameters({name: value[:1] for name, value in parameters.dense.items()})
    with pytest.raises(ElasticDLError, match="not of one training"):
        write_trained_model(str(path), source, wrong, overwrite=True)
    assert load_parameters(str(path)).dense.keys() == parameters.dense.keys()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["output", "zoo"]


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="holds files that are not a trained model"):
            check_output(str(tmp_path), overwrite)
        with pytest.raises(UsageError, match="is a file; give a directory"):
            check_output(str(tmp_path / "notes.txt"), overwrite)
        with pytest.raises(UsageError, match="is not writable"):
            check_output(str(tmp_path / "notes.txt" / "below"), overwrite)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: shutil.rmtree(path), "does not exist"),
        (lambda path: (path / "trained_model.pb").unlink(), "has no trained_model.pb"),
        (lambda path: (path / "trained_model.pb").write_bytes(b"\xff"), "is damaged"),
        (lambda path: (path / "trained_model.pb").write_bytes(b""), "trained_model.pb is empty"),
        (lambda path: shutil.rmtree(path / "model_zoo"), "trained_model .* model_zoo/ is missing"),
        (lambda path: (path / "params.npz").write_bytes(b"PK"), "cannot be read"),
        (lambda path: (path / "params.npz").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_model_is_named(tmp_path: Path, damage, message: str) -> None:
    source, parameters = trained(tmp_path, MNIST, "MnistElasticDLSpec")
    path = tmp_path / "output"
    write_trained_model(str(path), source, parameters)
    damage(path)
    with pytest.raises(UsageError, match=message):
        load_model(str(path))


def test_small_files_beside_the_code_travel_with_the_model(tmp_path: Path) -> None:
    source, parameters = trained(tmp_path, general(MODEL), "Spec")
    nets = Path(source.model_zoo) / "nets"
    for name, size in {"vocabulary.txt": 9, "big.txt": 2 << 20, "d.npz": 9, ".hidden": 9}.items():
        (nets / name).write_bytes(b"x" * size)
    write_trained_model(str(tmp_path / "out"), source, parameters)
    copied = {path.name for path in (tmp_path / "out/model_zoo/nets").iterdir()} - {"__pycache__"}
    assert copied == {"definition.py", "parts.py", "vocabulary.txt"}
