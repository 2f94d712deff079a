"""From ``module.Name`` to the object the user means."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.zoo import ModelZoo

# What makes names that a file's text does not have.
_BY_RUNNING = {"exec", "globals", "locals", "setattr", "vars"}


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
    relative = _place(zoo.directory, parts, name, label)
    module_name = ".".join(parts)
    if relative.suffix:
        return _attribute(zoo, relative, module_name, name, label)
    return _in_directory(zoo, relative, module_name, name, label)


def check_name(
    directory: Path, dotted_name: str, option: str = "model_def", modules: bool = False
) -> None:
    """Check that `resolve` may find a name, by the text of the files: none of them is run.

    A name that only running a file would tell passes: by ``from x import *``, for one.

    Raises:
      UsageError: nothing defines the name, or the file that would cannot be parsed.
    """
    *parts, name = dotted_name.split(".")
    label = f"{option} '{dotted_name}'"
    path = module_file(directory, parts, name) if modules else None
    if path is not None:
        _check_syntax(path, label)
        return
    relative = _place(directory, parts, name, label)
    path = directory / relative
    if relative.suffix:
        _check_syntax(path, label)
        if not _may_define(path, name):
            raise UsageError(_has_none(".".join(parts), path, name, label))
        return
    initial = path / "__init__.py"
    if initial.is_file():
        _check_syntax(initial, label)
        if _may_define(initial, name):
            return
    _check_syntax(_defining_file(path, ".".join(parts), name, label), label)


def _place(directory: Path, parts: list[str], name: str, label: str) -> Path:
    """Return the file ``a/b.py`` or the directory ``a/b`` below a zoo where a name has to be."""
    if not parts or not all(part.isidentifier() for part in (*parts, name)):
        raise UsageError(f"{label}: not of the form module.Name, for example mnist.MnistSpec")
    relative = Path(*parts)
    if (directory / relative).with_suffix(".py").is_file():
        return relative.with_suffix(".py")
    if (directory / relative).is_dir():
        return relative
    raise UsageError(
        f"{label}: model zoo '{directory}' has neither {relative}.py nor {relative}/; "
        + _offer("it has", _modules(directory))
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
    path = _defining_file(directory, module_name, name, label)
    return _attribute(zoo, relative / path.name, f"{module_name}.{path.stem}", name, label)


def _defining_file(directory: Path, module_name: str, name: str, label: str) -> Path:
    """Return the one file of a directory, apart from ``__init__.py``, that defines a name."""
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
        offered = sorted({each for path in files for each in _classes_and_functions(path)})
        raise UsageError(
            f"{label}: no file of '{directory}' defines '{name}'; " + _offer("they define", offered)
        )
    return defining[0]


def _attribute(zoo: ModelZoo, relative: Path, module_name: str, name: str, label: str) -> Resolved:
    module = zoo.load(relative)
    path = zoo.directory / relative
    if not hasattr(module, name):
        raise UsageError(_has_none(module_name, path, name, label))
    return Resolved(getattr(module, name), path, module, module_name)


def _has_none(module_name: str, path: Path, name: str, label: str) -> str:
    return f"{label}: module '{module_name}' ({path}) has no '{name}'; " + _offer(
        "it defines", sorted(_classes_and_functions(path))
    )


def defined_names(path: Path) -> set[str]:
    """Return the public names a file defines at its top level, without running it."""
    names = _classes_and_functions(path)
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def _classes_and_functions(path: Path) -> set[str]:
    """Return those public names of a file's top level that may be models, without running it."""
    body = _parsed(path).body
    names = {each.name for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef)}
    return {name for name in names if not name.startswith("_")}


def _parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree; an empty one where it has none."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _may_define(path: Path, name: str) -> bool:
    """Whether a file binds a name at its top level, or does what only running it would tell."""
    tree = _parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _BY_RUNNING:
            return True
        if isinstance(node, ast.Global) and name in node.names:
            return True
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if name in _bound(node) or not {"*", "__getattr__"}.isdisjoint(_bound(node)):
            return True
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return False


def _bound(node: ast.AST) -> list[str]:
    """Return the names that a node itself binds, and not what is below it."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [each.asname or each.name.partition(".")[0] for each in node.names]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        return [node.name]
    return []


def _check_syntax(path: Path, label: str) -> None:
    """Raise UsageError where a file is no Python."""
    broken = _syntax_error(path)
    if broken is not None:
        raise UsageError(f"{label}: {path} cannot be read: line {broken.lineno}: {broken.msg}")


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
