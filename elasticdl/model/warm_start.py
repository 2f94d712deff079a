"""What another training begins with: the weights of a checkpoint or of a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from elasticdl.data.filesystems import file_system, is_remote
from elasticdl.errors import JobError, UsageError
from elasticdl.model.definitions import TableDefinition, VariableDefinition
from elasticdl.model.parameters import Parameters
from elasticdl.model.source import DEFINITION_FILE
from elasticdl.model.trained_model import load_parameters
from elasticdl.ps.checkpoint_values import CheckpointValues
from elasticdl.ps.manifest import MANIFEST, committed, is_checkpoint, verify


class WarmStart(Protocol):
    """Weights by name.

    Attributes:
      tables: dim of each table.
      variables: shape of each variable.
    """

    @property
    def tables(self) -> Mapping[str, int]: ...
    @property
    def variables(self) -> Mapping[str, tuple[int, ...]]: ...

    def dense(self) -> Mapping[str, np.ndarray]:
        """Return every variable, in its shape."""
        ...

    def rows(self, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids int64 ``[n]`` and rows float32 ``[n, dim]`` of a table, each id once."""
        ...


class _OfCheckpoint:
    def __init__(self, path: str) -> None:
        self._values = CheckpointValues(path)
        model = self._values.model
        self.tables = {one.name: one.dim for one in model.tables}
        self.variables = {one.name: tuple(one.shape) for one in model.variables}

    def dense(self) -> Mapping[str, np.ndarray]:
        return self._values.dense()

    def rows(self, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self._values.rows(table)


class _OfTrainedModel:
    def __init__(self, path: str) -> None:
        self._parameters = load_parameters(path)
        self.tables = {name: one.rows.shape[1] for name, one in self._parameters.tables.items()}
        self.variables = {name: value.shape for name, value in self._parameters.dense.items()}

    def dense(self) -> Mapping[str, np.ndarray]:
        return self._parameters.dense

    def rows(self, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        found = self._parameters.tables[table]
        yield found.ids, found.rows


def check_warm_start(path: str) -> None:
    """Read all of it, to see that it is whole.

    Raises:
      UsageError: it is not, or there is nothing to begin with; one line.
    """
    try:
        problems = verify(path) if is_checkpoint(path) else []
    except OSError as error:
        raise UsageError(f"warm_start '{path}': {error.strerror or error}") from None
    if problems:
        raise UsageError(f"warm_start '{path}': {problems[0]}")
    open_warm_start(path)


def open_warm_start(path: str) -> WarmStart:
    """Open a checkpoint or a trained model.

    Raises:
      UsageError: it is neither, or not whole as far as names and sizes tell.
    """
    if is_remote(path):
        return _open_remote(path)
    directory = Path(path)
    if (directory / MANIFEST).is_file():
        return _open_checkpoint(path)
    if (directory / DEFINITION_FILE).is_file():
        return _OfTrainedModel(path)
    inside = [*committed(directory), *committed(directory / "checkpoints")]
    hint = f"such as {inside[-1]}" if inside else "elasticdl checkpoints list JOB shows them"
    what = "no checkpoint and no trained model" if directory.is_dir() else "no such directory"
    raise UsageError(
        f"warm_start '{path}': {what}; give a checkpoint's or a trained model's directory, {hint}"
    )


def _open_remote(path: str) -> WarmStart:
    try:
        files, root = file_system(path)
        names = {one.path[len(root) + 1 :] for one in files.files(root)}
    except OSError as error:
        raise UsageError(f"warm_start '{path}': {error.strerror}") from error
    if MANIFEST in names:
        return _open_checkpoint(path)
    if DEFINITION_FILE in names:
        return _OfTrainedModel(path)
    inside = sorted(one for one in names if one.endswith(f"/{MANIFEST}"))
    hint = f", such as {path.rstrip('/')}/{os.path.dirname(inside[-1])}" if inside else ""
    what = "no checkpoint and no trained model" if names else "no such directory"
    raise UsageError(
        f"warm_start '{path}': {what}; give a checkpoint's or a trained model's directory{hint}"
    )


def _open_checkpoint(path: str) -> WarmStart:
    try:
        return _OfCheckpoint(path)
    except JobError as error:
        raise UsageError(f"warm_start '{path}': {error}") from None
    except OSError as error:
        raise UsageError(f"warm_start '{path}': {error.strerror or error}") from None


def check_same(
    path: str,
    warm: WarmStart,
    tables: Sequence[TableDefinition],
    variables: Sequence[VariableDefinition],
) -> None:
    """Check that a model has the variables and tables of what it is to begin with.

    Raises:
      UsageError: names the first difference.
    """
    there: dict[str, dict[str, object]] = {
        "variable": dict(warm.variables),
        "table": dict(warm.tables),
    }
    here: dict[str, dict[str, object]] = {
        "variable": {one.path: one.shape for one in variables},
        "table": {one.name: one.dim for one in tables},
    }
    for kind, wanted in here.items():
        for name in [*wanted, *(name for name in there[kind] if name not in wanted)]:
            if wanted.get(name) == there[kind].get(name):
                continue
            size = "shape" if kind == "variable" else "dim"
            sides = [
                f"of {size} {side[name]} {where}" if name in side else f"not {where}"
                for side, where in ((wanted, "in the model"), (there[kind], "there"))
            ]
            raise UsageError(
                f"warm_start '{path}': {kind} '{name}' is {', but '.join(sides)}; begin with a "
                "training of the same model"
            )


def rows_to_load(
    warm: WarmStart, table: TableDefinition
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a table's rows as `ParameterClient.load_rows` wants them: by id where rows age."""
    pages = warm.rows(table.name)
    if not table.rules.are_any:
        yield from pages
        return
    found = [(np.zeros(0, np.int64), np.zeros((0, table.dim), np.float32)), *pages]
    ids, rows = (np.concatenate([page[i] for page in found]) for i in (0, 1))
    order = np.argsort(ids)
    yield ids[order], rows[order]


def flat(warm: WarmStart, variables: Sequence[VariableDefinition]) -> np.ndarray:
    """Return the flat vector of all variables, float32 ``[D]``."""
    return Parameters(warm.dense()).flat(variables)
