"""From a dotted name to the user's object, and two zoos in one process."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.resolver import check_name, resolve
from elasticdl.model.zoo import ModelZoo
from tests.model_zoos import write_zoo

FILES = {
    "regressor.py": "class DNN: pass\nSIZE = 3\n",
    "deep/wide_and_deep.py": "class MagicalWAD: pass\n",
    "fintech/one.py": "class MyKerasModel: pass\nclass Both: pass\n",
    "fintech/two.py": "class Both: pass\n",
    "packed/__init__.py": "from .inner import Model\n",
    "packed/inner.py": "class Model: pass\n",
    "packed/other.py": "class Other: pass\n",
    "broken.py": "import nothing_like_this\n",
    "wrong.py": "def f(:\n",
}


@pytest.fixture
def zoo(tmp_path: Path) -> ModelZoo:
    return ModelZoo(str(write_zoo(tmp_path, FILES)))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("regressor.DNN", "regressor.py"),
        ("deep.wide_and_deep.MagicalWAD", "deep/wide_and_deep.py"),
        ("fintech.MyKerasModel", "fintech/one.py"),
        ("packed.Model", "packed/__init__.py"),
        ("packed.Other", "packed/other.py"),
    ],
)
def test_a_name_is_found_where_it_is_defined(zoo: ModelZoo, name: str, path: str) -> None:
    found = resolve(zoo, name)
    assert found.value.__name__ == name.rpartition(".")[2]
    assert found.path == zoo.directory / path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "regressor.Foo",
            "model_def 'regressor.Foo': module 'regressor' ({zoo}/regressor.py) has no 'Foo'; "
            "it defines 'DNN'",
        ),
        ("nowhere.Foo", "has neither nowhere.py nor nowhere/; it has 'broken', 'deep', 'fintech'"),
        ("fintech.Both", "both one.py and two.py of '{zoo}/fintech' define 'Both'; say which:"),
        ("fintech.None_", "no file of '{zoo}/fintech' defines 'None_'; they define 'Both', 'MyK"),
        ("Foo", "not of the form module.Name"),
        ("a..Foo", "not of the form module.Name"),
    ],
)
def test_what_is_not_found_is_said_with_what_there_is(
    zoo: ModelZoo, name: str, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        resolve(zoo, name)
    assert message.format(zoo=zoo.directory) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message", "line"),
    [
        ("broken.X", "No module named 'nothing_like_this'", "import nothing_like_this"),
        ("wrong.X", "SyntaxError", "def f(:"),
    ],
)
def test_a_module_that_raises_shows_its_own_traceback(
    zoo: ModelZoo, name: str, message: str, line: str
) -> None:
    with pytest.raises(UserCodeError) as raised:
        resolve(zoo, name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert line in raised.value.traceback_text
    assert "zoo.py" not in raised.value.traceback_text


@pytest.mark.parametrize("name", ["regressor.SIZE", "packed.Model", "packed.Other", "broken.X"])
def test_a_name_that_is_there_passes_without_a_file_being_run(zoo: ModelZoo, name: str) -> None:
    (zoo.directory / "broken.py").write_text("X = 1\nraise SystemExit\n")
    check_name(zoo.directory, name)


@pytest.mark.parametrize(
    "text",
    [
        "from other import Net",
        "from other import *",
        "import other.Net as Net",
        "if True:\n    class Net: pass",
        "try:\n    import gone\nexcept ImportError as Net:\n    pass",
        "Net: type = int",
        "first, (second, *Net) = 1, (2, 3)",
        "for Net in []: pass",
        "globals()['N' + 'et'] = int",
        "def __getattr__(name): return int",
        "def make():\n    global Net\n    Net = int\nmake()",
        "match 1:\n    case Net: pass",
    ],
)
def test_a_name_that_running_the_file_may_make_passes(tmp_path: Path, text: str) -> None:
    check_name(write_zoo(tmp_path, {"a.py": f"{text}\n"}), "a.Net")


@pytest.mark.parametrize(
    "text",
    [
        "def f(Net): Net = 1",
        "class Other:\n    Net = 1\n    def Net(self): pass",
        "Net.other = 1",
        "print(Net)",
        "lambda: (Net := 1)",
    ],
)
def test_a_name_that_is_somewhere_else_in_the_file_does_not(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="has no 'Net'; it defines "):
        check_name(write_zoo(tmp_path, {"a.py": f"{text}\n"}), "a.Net")


@pytest.mark.parametrize("name", ["regressor.Foo", "nowhere.Foo", "fintech.Both", "fintech.N", "F"])
def test_what_is_checked_is_said_as_what_is_resolved(zoo: ModelZoo, name: str) -> None:
    with pytest.raises(UsageError) as checked:
        check_name(zoo.directory, name)
    with pytest.raises(UsageError) as resolved:
        resolve(zoo, name)
    assert str(checked.value) == str(resolved.value)


def test_two_zoos_with_the_same_names_never_meet(tmp_path: Path) -> None:
    modules = set(sys.modules)
    values = []
    for name in ("one", "two"):
        files = {
            "model.py": "import helper\nfrom . import helper as relative\n"
            "VALUE = (helper.NAME, relative.NAME)\n",
            "helper.py": f"NAME = {name!r}\n",
        }
        values.append(
            resolve(ModelZoo(str(write_zoo(tmp_path / name, files))), "model.VALUE").value
        )
    assert values == [("one", "one"), ("two", "two")]
    assert not {"model", "helper"} & (set(sys.modules) - modules)
    assert str(tmp_path / "one") not in sys.path


@pytest.mark.parametrize("where", ["nowhere", "file.py"])
def test_a_zoo_that_is_no_directory_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file.py").write_text("")
    with pytest.raises(UsageError, match=f"model_zoo '.*{where}': "):
        ModelZoo(str(tmp_path / where))


def test_a_file_named_as_what_it_defines_is_not_taken_for_it(tmp_path: Path) -> None:
    files = {"a/__init__.py": "from . import Net\n", "a/Net.py": "class Net: pass\n"}
    assert isinstance(resolve(ModelZoo(str(write_zoo(tmp_path, files))), "a.Net").value, type)


def test_a_file_that_cannot_be_read_is_named_where_the_name_is_nowhere(tmp_path: Path) -> None:
    zoo = ModelZoo(str(write_zoo(tmp_path, {"a/b.py": "\nclass Net(:\n", "a/c.py": "X = 1\n"})))
    with pytest.raises(UsageError, match=r"b\.py cannot be read: line 2: invalid syntax"):
        resolve(zoo, "a.Net")
    assert resolve(zoo, "a.X").value == 1


def test_other_threads_may_import_while_a_zoo_is_made_importable(zoo: ModelZoo) -> None:
    names = [f"imported_meanwhile_{number}" for number in range(200)]
    is_over = threading.Event()

    def import_on() -> None:
        while not is_over.is_set():
            for name in names:
                sys.modules[name] = threading
            for name in names:
                del sys.modules[name]

    other = threading.Thread(target=import_on)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for _ in range(300):
            with zoo.importable():
                sys.modules["regressor"] = threading
    finally:
        is_over.set()
        other.join()
        sys.setswitchinterval(interval)
