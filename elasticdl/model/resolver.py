"""From ``module.Name`` to the object the user means."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.zoo import ModelZoo


@dataclass(frozen=True)
class Resolved:
    """An object of the model zoo, and the module and file it was found in.

    Attributes:
      value: the object; where a module is asked for, the module itself.
      path: the file.
      module: what the file is imported as.
      module_name: dotted, in the zoo.
    """

    value: Any
    path: Path
    module: ModuleType
    module_name: str


def resolve(
    zoo: ModelZoo, dotted_name: str, option: str = "model_def", modules: bool = False
) -> Resolved:
    """Find the object that ``a.b.Name`` means.

    ``a/b.py`` of the zoo if there is one; else the directory ``a/b/``: its ``__init__.py`` if that
    has the name, else the one file in it that defines the name.

    Args:
      zoo: where to look.
      dotted_name: as the user wrote it.
      option: the option it was given to, for messages.
      modules: whether ``a.b`` may mean the module ``a/b.py`` too.

    Raises:
      UsageError: nothing, or more than one file, defines the name.
      UserCodeError: the module raises on import.
    """
    *parts, name = dotted_name.split(".")
    label = f"{option} '{dotted_name}'"
    if modules and (found := _module(zoo, parts, name)) is not None:
        return found
    if not parts or not all(part.isidentifier() for part in (*parts, name)):
        raise UsageError(f"{label}: not of the form module.Name, for example mnist.MnistSpec")
    relative = Path(*parts)
    module_name = ".".join(parts)
    if (zoo.directory / relative).with_suffix(".py").is_file():
        return _attribute(zoo, relative.with_suffix(".py"), module_name, name, label)
    if (zoo.directory / relative).is_dir():
        return _in_directory(zoo, relative, module_name, name, label)
    raise UsageError(
        f"{label}: model zoo '{zoo.directory}' has neither {relative}.py nor {relative}/; "
        + _offer("it has", _modules(zoo.directory))
    )


def _module(zoo: ModelZoo, parts: list[str], name: str) -> Resolved | None:
    """Return the module of a name, if there is one and it is not the name of an object too."""
    path = module_file(zoo.directory, parts, name)
    if path is None:
        return None
    loaded = path.parent if path.name == "__init__.py" else path
    module = zoo.load(loaded.relative_to(zoo.directory))
    return Resolved(module, path, module, ".".join([*parts, name]))


def module_file(directory: Path, parts: list[str], name: str) -> Path | None:
    """Return the file of the module that a name means, if it means one and not an object."""
    folder = directory.joinpath(*parts)
    path = folder / f"{name}.py"
    if not path.is_file():
        path = folder / name / "__init__.py"
    if not name.isidentifier() or not path.is_file():
        return None
    beside = sorted(folder.glob("*.py")) if parts else []
    return None if any(name in defined_names(each) for each in beside) else path


def model_files(directory: Path, model_def: str) -> list[Path]:
    """Return the file of a zoo that `resolve` finds a model in, without running any of them.

    Several where only running them would tell; none where there is no such model.
    """
    *parts, name = model_def.split(".")
    module = module_file(directory, parts, name)
    if module is not None:
        return [module]
    if not parts:
        return []
    folder = directory.joinpath(*parts)
    if folder.with_suffix(".py").is_file():
        return [folder.with_suffix(".py")]
    files = sorted(folder.glob("*.py"))
    defining = [each for each in files if name in defined_names(each)]
    initial = [each for each in files if each.name == "__init__.py"]
    return [each for each in initial if each in defining] or defining or initial or files


def _in_directory(
    zoo: ModelZoo, relative: Path, module_name: str, name: str, label: str
) -> Resolved:
    directory = zoo.directory / relative
    initial = relative / "__init__.py"
    if (zoo.directory / initial).is_file():
        module = zoo.load(relative)
        # A module is a file of that name, not what the file defines.
        if not isinstance(value := getattr(module, name, None), ModuleType | None):
            return Resolved(value, zoo.directory / initial, module, module_name)
    files = sorted(path for path in directory.glob("*.py") if path.name != "__init__.py")
    defining = [path for path in files if name in defined_names(path)]
    if len(defining) > 1:
        raise UsageError(
            f"{label}: both {defining[0].name} and {defining[1].name} of '{directory}' define "
            f"'{name}'; say which: {module_name}.{defining[0].stem}.{name}"
        )
    if not defining:
        for path in files:
            if (broken := _syntax_error(path)) is not None:
                raise UsageError(
                    f"{label}: no file of '{directory}' defines '{name}', and {path.name} cannot "
                    f"be read: line {broken.lineno}: {broken.msg}"
                )
        offered = sorted({each for path in files for each in defined_names(path)})
        raise UsageError(
            f"{label}: no file of '{directory}' defines '{name}'; " + _offer("they define", offered)
        )
    found = relative / defining[0].name
    return _attribute(zoo, found, f"{module_name}.{defining[0].stem}", name, label)


def _attribute(zoo: ModelZoo, relative: Path, module_name: str, name: str, label: str) -> Resolved:
    module = zoo.load(relative)
    path = zoo.directory / relative
    if not hasattr(module, name):
        raise UsageError(
            f"{label}: module '{module_name}' ({path}) has no '{name}'; "
            + _offer("it defines", sorted(defined_names(path)))
        )
    return Resolved(getattr(module, name), path, module, module_name)


def defined_names(path: Path) -> set[str]:
    """Return the public names a file defines at its top level, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def _syntax_error(path: Path) -> SyntaxError | None:
    try:
        ast.parse(path.read_bytes())
    except SyntaxError as error:
        return error
    except ValueError as error:
        return SyntaxError(str(error))
    return None


def _modules(directory: Path) -> list[str]:
    files = {path.stem for path in directory.glob("*.py") if path.stem != "__init__"}
    folders = {path.parent.name for path in directory.glob("*/*.py")}
    return sorted(name for name in files | folders if name.isidentifier())


def _offer(lead: str, names: list[str], most: int = 8) -> str:
    if not names:
        return f"{lead} nothing"
    more = ", …" if len(names) > most else ""
    return f"{lead} {', '.join(map(repr, names[:most]))}{more}"
