"""What `elasticdl init` writes runs at once, as its own README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from elasticdl.api.commands.init import CONTRACTS, write_project
from elasticdl.errors import UsageError

ROOT = Path(__file__).parents[2]
ELASTICDL = f'"{sys.executable}" -m elasticdl.api'


def run(command, directory):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ELASTICDL_HOME": str(directory.parent / "home"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def commands_of(readme):
    """The indented commands of a README, as they are written there."""
    block = "".join(re.findall(r"^    .*\n", readme, re.MULTILINE)).replace("\\\n", "")
    return [line for line in map(str.strip, block.splitlines()) if line]


def ready(command):
    """A README's command, with this Python and in one process."""
    words = command.split()
    if words[0] == "elasticdl":
        one_process = " --num_workers=0" if words[1] != "check" else ""
        return ELASTICDL + command.removeprefix("elasticdl") + one_process
    assert words[0] == "python"
    return f'"{sys.executable}"' + command.removeprefix("python")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("contract", CONTRACTS)
def test_what_is_written_runs_at_once_as_its_readme_says(tmp_path, contract):
    shown = run(f"{ELASTICDL} init my_films --contract={contract}", tmp_path)
    project = tmp_path / "my_films"
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "make_data.py",
        "model_zoo/my_films.py",
        "model_zoo/requirements.txt",
        "test_my_films.py",
    }
    assert all(name in shown for name in files)
    install, *commands = commands_of((project / "README.md").read_text())
    assert install.startswith("pip install ")  # what is installed here
    assert [command.partition(" --")[0] for command in commands] == [
        "python make_data.py",
        "elasticdl check",
        "elasticdl train",
        "elasticdl predict",
        "python -m pytest",
    ]
    outputs = [run(ready(command), project) for command in commands]
    assert "1 passed" in outputs[-1]
    assert (project / "predictions.csv").read_text().count("\n") == 2_000 + 1


def test_what_is_required_is_what_is_installed_here(tmp_path):
    import elasticdl

    write_project(tmp_path / "films")
    required = (tmp_path / "films" / "model_zoo" / "requirements.txt").read_text()
    assert f"elasticdl>={elasticdl.__version__}\n" in required


@pytest.mark.parametrize("name", ["Films", "my-films", "2films", "class", "keras", "json"])
def test_a_name_that_cannot_be_imported_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(UsageError, match="for example my_model"):
        write_project(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_contract_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="--contract 'classes': unknown; give spec or functions"):
        write_project(tmp_path / "films", "classes")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("contract", CONTRACTS)
def test_nothing_is_overwritten(tmp_path, contract):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten") as error:
        write_project(tmp_path / "films", contract)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "films").iterdir()] == ["notes.txt"]
    (tmp_path / "shows").write_text("a file")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_project(tmp_path / "shows", contract)


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "films").mkdir()
    assert Path("model_zoo/films.py") in write_project(tmp_path / "films")


def test_where_nothing_can_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: Not a directory") as error:
        write_project(tmp_path / "file" / "films")
    assert "\n" not in str(error.value)
