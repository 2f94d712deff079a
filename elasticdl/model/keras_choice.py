"""Which Keras a job uses: decided once, before anything of it runs, without importing either."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.resolver import model_files
from elasticdl.model.source import read_definition, zoo_directory

KERAS_3, LEGACY = "3", "legacy"
NAMES = {KERAS_3: "Keras 3", LEGACY: "tf_keras"}
VARIABLE = "TF_USE_LEGACY_KERAS"
_TRUE = ("true", "True", "1")  # TensorFlow's rule
_REQUIREMENTS = "requirements.txt"
_LEGACY_REQUIREMENT = re.compile(r"^\s*tf[-_]keras(?![-\w])", re.IGNORECASE | re.MULTILINE)
_MOST_FILES = 200
# What of TensorFlow works with tf_keras only, by the dotted names of the code.
_LEGACY_ONLY = re.compile(
    r"^(tf|tensorflow)\.feature_column\b"
    r"|\bkeras\.optimizers\.legacy\b"
    r"|\bkeras\.layers\.DenseFeatures\b"
    r"|\bkeras\.layers\.experimental\b"
    r"|\bkeras\.experimental\b"
    r"|^(tf|tensorflow)\.compat\.v1\.(keras|train\.\w*Optimizer)\b"
)


def with_keras(job_spec: JobSpec) -> JobSpec:
    """Return the spec of a job with its Keras decided.

    In this order: the trained model's, ``--keras``, ``TF_USE_LEGACY_KERAS``, a ``requirements.txt``
    of the zoo that names tf-keras, code of the model's that needs tf_keras; else Keras 3.

    Raises:
      UsageError: another Keras is asked for than a model was trained with; tf_keras is not there.
    """
    choice: str | None = job_spec.keras
    if job_spec.trained_model is not None:
        trained = read_definition(job_spec.trained_model).keras or KERAS_3
        if choice not in (None, trained):
            raise UsageError(
                f"keras '{choice}': trained_model '{job_spec.trained_model}' was trained with "
                f"{NAMES[trained]}; leave the option out"
            )
        choice = trained
    if choice is None and _of_environment() == LEGACY:
        choice = LEGACY
    if choice is None and job_spec.model_zoo is not None and job_spec.model_def is not None:
        zoo = Path(zoo_directory(job_spec.model_zoo)).resolve()
        needs = _needs_legacy(zoo, job_spec.model_def)
        choice = LEGACY if needs else KERAS_3
    choice = choice or KERAS_3
    if choice == LEGACY:
        _check_installed()
    return job_spec.model_copy(update={"keras": choice})


def use_keras(choice: str) -> None:
    """Make this process use a Keras; called before anything imports TensorFlow.

    Raises:
      UsageError: the process has loaded TensorFlow with the other one.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        is_legacy = getattr(tensorflow, "_tf_uses_legacy_keras", _of_environment() == LEGACY)
        loaded = LEGACY if is_legacy else KERAS_3
        if loaded != choice:
            value = "1" if choice == LEGACY else "0"
            raise UsageError(
                f"keras '{choice}': this process has imported TensorFlow with {NAMES[loaded]}, and "
                f"has one Keras for its life; set {VARIABLE}={value} before TensorFlow is imported"
            )
    if choice != _of_environment():
        os.environ[VARIABLE] = "1" if choice == LEGACY else "0"


def _of_environment() -> str:
    return LEGACY if os.environ.get(VARIABLE) in _TRUE else KERAS_3


def _check_installed() -> None:
    if importlib.util.find_spec("tf_keras") is not None:
        return
    wanted = "tf-keras"
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            major, minor = importlib.metadata.version(name).split(".")[:2]
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = f"tf-keras=={major}.{minor}.*"
    raise UsageError(
        f"keras '{LEGACY}': the package tf-keras is not installed; "
        f"pip install --no-deps '{wanted}' (--no-deps, as it asks for another build of TensorFlow)"
    )


def _needs_legacy(zoo: Path, model_def: str) -> bool:
    """Whether the requirements or the code of a model need tf_keras."""
    files = model_files(zoo, model_def)
    folders = {zoo}
    for file in files:
        folders.update(each for each in file.parents if each.is_relative_to(zoo))
    for folder in sorted(folders):
        try:
            text = (folder / _REQUIREMENTS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if _LEGACY_REQUIREMENT.search(text):
            return True
    return any(_code_needs_legacy(tree) for tree in _imported(zoo, files))


def _module_files(folder: Path, parts: list[str]) -> list[Path]:
    """Return the files that a dotted module of a folder may mean."""
    path = folder.joinpath(*parts)
    if path.with_suffix(".py").is_file():
        return [path.with_suffix(".py")]
    return sorted(path.glob("*.py")) if path.is_dir() else []


def _imported(zoo: Path, files: list[Path]) -> Iterator[ast.Module]:
    """Yield the code of some files, and of the files of the zoo that these import."""
    waiting, seen = list(files), set(files)
    while waiting and len(seen) <= _MOST_FILES:
        file = waiting.pop()
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # Said where it is imported.
        yield tree
        for base, parts in _imports(tree, zoo, file):
            for each in _module_files(base, parts):
                if each not in seen:
                    seen.add(each)
                    waiting.append(each)


def _imports(tree: ast.Module, zoo: Path, file: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield what may be modules of the zoo among a file's imports: a folder, and names below it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield zoo, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else zoo
            if not base.is_relative_to(zoo):
                continue
            parts = node.module.split(".") if node.module else []
            if parts:
                yield base, parts
            for alias in node.names:
                yield base, [*parts, alias.name]


def _code_needs_legacy(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [_dotted(node)]
        for name in names:
            if name.partition(".")[0] == "tf_keras" or _LEGACY_ONLY.search(name):
                return True
    return False


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
