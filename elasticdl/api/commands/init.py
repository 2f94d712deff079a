"""``elasticdl init``: write a model, its data recipe and its test, to start from."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import elasticdl
from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch
from elasticdl.errors import UsageError

_SUMMARY = "write a model to start from, with its data and its test"
CONTRACTS = ("spec", "functions")
_NUM_EPOCHS = 5
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Names of modules that a model's files import.
_TAKEN = {*sys.stdlib_module_names, "elasticdl", "keras", "numpy", "tensorflow", "model_zoo"}


def write_project(directory: Path, contract: str = "spec") -> list[Path]:
    """Write the files of a model that runs at once.

    Args:
      directory: new, or empty; its last part is the model's name.
      contract: how the model is written: ``spec``, a class derived from `ElasticDLSpec`, or
        ``functions`` of a module.

    Returns:
      the files, relative to the directory.

    Raises:
      UsageError: the name or the contract is wrong, there is something already, or it cannot be
        written.
    """
    name = directory.name
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in _TAKEN:
        taken = "is the name of another module" if name in _TAKEN else "cannot be a module's name"
        raise UsageError(
            f"NAME '{name}': {taken}; give small letters, digits and _, for example my_model"
        )
    if contract not in CONTRACTS:
        raise UsageError(f"--contract '{contract}': unknown; give {' or '.join(CONTRACTS)}")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    values = {
        "name": name,
        "class_name": class_name,
        "model_def": f"{name}.{class_name}" if contract == "spec" else name,
        "num_epochs": str(_NUM_EPOCHS),
        "version": elasticdl.__version__,
    }
    templates = {
        Path("README.md"): "README.md",
        Path("make_data.py"): "make_data.py",
        Path("model_zoo", f"{name}.py"): f"{contract}.py",
        Path("model_zoo", "requirements.txt"): "requirements.txt",
        Path(f"test_{name}.py"): "test.py",
    }
    try:
        if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
            raise UsageError(
                f"NAME '{directory}': there is something already, and nothing is overwritten; "
                "give another name"
            )
        for path, template in templates.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(_fill(template, values), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"NAME '{directory}': cannot be written: {error.strerror}") from error
    return list(templates)


def _fill(template: str, values: dict[str, str]) -> str:
    file = resources.files("elasticdl.api") / "templates" / f"{template}.template"
    return Template(file.read_text(encoding="utf-8")).substitute(values)


def _init(words: Sequence[str]) -> None:
    parser = Parser(
        "init",
        f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}.",
        "NAME [--contract=spec|functions]",
        ["elasticdl init my_model", "elasticdl init my_model --contract=functions"],
    )
    parser.add_argument("name", metavar="NAME", help="the model's name, and its new directory")
    parser.add_argument(
        "--contract",
        metavar="spec|functions",
        default=argparse.SUPPRESS,
        help="a class derived from ElasticDLSpec, or functions of a module (default: spec)",
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    parsed = parser.parse(words)
    directory = Path(parsed.name)
    files = write_project(directory, getattr(parsed, "contract", "spec"))
    print(f"{directory}: {', '.join(map(str, files))}")
    print(f"next: cd {directory} && python make_data.py; README.md says how to train")


COMMANDS = [Command(("init",), _SUMMARY, _init)]
