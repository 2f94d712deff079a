"""Which Keras a job gets: said, recorded in a trained model, or read from the zoo's files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from elasticdl.errors import UsageError
from elasticdl.instance import child_environment
from elasticdl.job_spec import JobSpec
from elasticdl.model.custom_reader import has_custom_reader
from elasticdl.model.keras_choice import use_keras, with_keras
from elasticdl.model.source import DEFINITION_FILE
from elasticdl.proto.trained_model_pb2 import TrainedModel
from tests.model_zoos import write_zoo

TF = "import tensorflow as tf\n"
PLAIN = "from tensorflow import keras\nfrom elasticdl import ElasticDLSpec\n"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)


def chosen(zoo: Path, model_def: str = "definition.Spec", **options: object) -> str | None:
    given = {"model_zoo": str(zoo), "model_def": model_def, "data": "x", "output": "y", **options}
    return with_keras(JobSpec.resolve("train", given)).keras


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "3"),
        ({"requirements.txt": "numpy\ntf-keras>=2.20\n"}, "legacy"),
        ({"requirements.txt": "TF_Keras\n"}, "legacy"),
        ({"requirements.txt": "tf-keras-vis\n"}, "3"),
        ({"requirements.txt": "# not tf-keras\n"}, "3"),
        ({"definition.py": "import tf_keras as keras\n"}, "legacy"),
        ({"definition.py": "from tf_keras import layers\n"}, "legacy"),
        ({"definition.py": "import helper\n", "helper.py": "import tf_keras\n"}, "legacy"),
        ({"definition.py": "from . import helper\n", "helper.py": "import tf_keras\n"}, "legacy"),
        ({"definition.py": PLAIN, "other.py": "import tf_keras\n"}, "3"),
        ({"definition.py": TF + "f = tf.feature_column.numeric_column\n"}, "legacy"),
        ({"definition.py": "from tensorflow import feature_column as fc\n"}, "legacy"),
        ({"definition.py": TF + "o = tf.keras.optimizers.legacy.SGD\n"}, "legacy"),
        ({"definition.py": TF + "o = tf.compat.v1.train.AdamOptimizer\n"}, "legacy"),
        ({"definition.py": "from tensorflow.keras.layers import DenseFeatures\n"}, "legacy"),
        ({"definition.py": "def broken(:\n"}, "3"),
    ],
)  # fmt: skip
def test_the_zoo_tells_which_keras_it_needs(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    assert chosen(write_zoo(tmp_path, {"definition.py": PLAIN, **files})) == expected


@pytest.mark.parametrize("model_def", ["net", "sub.net", "sub.net.custom_model", "sub.Spec"])
def test_of_a_model_its_own_file_tells_and_no_neighbour(tmp_path: Path, model_def: str) -> None:
    net = "def custom_model():\n    return None\n"
    other = "import tf_keras\n"
    files = {
        "net.py": net,
        "other.py": other,
        "sub/net.py": net,
        "sub/other.py": other,
        "sub/spec.py": "class Spec:\n    pass\n",
    }
    zoo = write_zoo(tmp_path, files)
    assert chosen(zoo, model_def) == "3"
    (zoo / "net.py").write_text(other + net)
    (zoo / "sub/net.py").write_text(other + net)
    (zoo / "sub/spec.py").write_text(other + files["sub/spec.py"])
    assert chosen(zoo, model_def) == "legacy"


@pytest.mark.parametrize("model_def", ["net", "sub.net", "sub.net.custom_model"])
def test_of_a_model_its_own_file_has_the_reader_and_no_neighbour(
    tmp_path: Path, model_def: str
) -> None:
    net, reader = "def custom_model():\n    return None\n", "def custom_data_reader(origin): ...\n"
    names = ("net.py", "other.py", "sub/net.py", "sub/other.py")
    zoo = write_zoo(tmp_path, {name: reader if "other" in name else net for name in names})
    options = {"model_zoo": str(zoo), "model_def": model_def, "data": "x", "output": "y"}
    spec = JobSpec.resolve("train", options)
    assert not has_custom_reader(spec)
    for name in ("net.py", "sub/net.py"):
        (zoo / name).write_text(net + reader)
    assert has_custom_reader(spec)


def test_requirements_beside_the_model_count_and_others_do_not(tmp_path: Path) -> None:
    write_zoo(
        tmp_path,
        {
            "old/model.py": PLAIN,
            "old/requirements.txt": "tf-keras",
            "new/model.py": PLAIN,
        },
    )
    assert chosen(tmp_path, "old.model.Spec") == chosen(tmp_path, "old.Spec") == "legacy"
    assert chosen(tmp_path, "new.model.Spec") == "3"


def test_what_is_said_goes_before_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = write_zoo(tmp_path, {"definition.py": PLAIN})
    assert chosen(zoo, keras="legacy") == "legacy"
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert chosen(zoo) == "legacy"
    assert chosen(zoo, keras=3) == "3"
    write_zoo(tmp_path, {"definition.py": "import tf_keras"})
    assert chosen(zoo, keras="3") == "3"


def test_a_trained_model_keeps_its_keras(tmp_path: Path) -> None:
    for keras, expected in (("legacy", "legacy"), ("3", "3"), ("", "3")):
        definition = TrainedModel(model_def="a.B", keras=keras)
        (tmp_path / DEFINITION_FILE).write_bytes(definition.SerializeToString())
        options = {"trained_model": str(tmp_path), "data": "x"}
        assert with_keras(JobSpec.resolve("evaluate", options)).keras == expected
    with pytest.raises(UsageError, match=r"keras 'legacy': .* was trained with Keras 3; leave"):
        with_keras(JobSpec.resolve("evaluate", {**options, "keras": "legacy"}))


def test_every_process_of_the_job_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"model_zoo": "z", "model_def": "a.B", "data": "x", "output": "y", "keras": "legacy"}
    spec = JobSpec.resolve("train", {**options, "job_dir": str(tmp_path)})
    spec.save()
    assert child_environment(JobSpec.load(tmp_path).keras)["TF_USE_LEGACY_KERAS"] == "1"
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    other = spec.model_copy(update={"keras": "3"})
    assert child_environment(other.keras)["TF_USE_LEGACY_KERAS"] == "0"


def test_a_process_that_has_the_other_keras_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = SimpleNamespace(_tf_uses_legacy_keras=False)
    monkeypatch.setitem(sys.modules, "tensorflow", loaded)
    use_keras("3")
    with pytest.raises(UsageError, match=r"has imported TensorFlow with Keras 3.*LEGACY_KERAS=1"):
        use_keras("legacy")


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps 'tf-keras==2\.\d+\.\*'"):
        chosen(write_zoo(tmp_path, {"definition.py": PLAIN}), keras="legacy")


def test_choosing_imports_neither_keras(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, {"definition.py": "import tf_keras"})
    code = f"""
import sys
from elasticdl.job_spec import JobSpec
from elasticdl.model.keras_choice import with_keras
options = dict(model_zoo={str(zoo)!r}, model_def="definition.Spec", data="x", output="y")
assert with_keras(JobSpec.resolve("train", options)).keras == "legacy"
assert not {{"tensorflow", "keras", "tf_keras"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
