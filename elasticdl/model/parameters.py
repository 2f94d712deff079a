"""The values of a trained model: dense variables by path, embedding rows by table."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from elasticdl.errors import DataError, JobError
from elasticdl.model.definitions import VariableDefinition


@dataclass(frozen=True)
class TableRows:
    """The trained rows of one table: distinct int64 ids ``[n]``, float32 rows ``[n, dim]``."""

    ids: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Parameters:
    """All values of a trained model.

    Attributes:
      dense: by variable path, in the variable's shape.
      tables: by table name.
    """

    dense: Mapping[str, np.ndarray]
    tables: Mapping[str, TableRows] = field(default_factory=dict)

    @classmethod
    def of_flat(
        cls,
        variables: Sequence[VariableDefinition],
        dense: np.ndarray,
        tables: Mapping[str, TableRows],
    ) -> Parameters:
        """Cut the flat vector of all variables, float32 ``[D]``, into theirs."""
        ends = np.cumsum([variable.num_elements for variable in variables], dtype=np.int64)
        parts = np.split(dense, ends[:-1]) if len(variables) else []
        return cls(
            {
                variable.path: part.reshape(variable.shape)
                for variable, part in zip(variables, parts, strict=True)
            },
            tables,
        )

    def flat(self, variables: Sequence[VariableDefinition]) -> np.ndarray:
        """Return the flat vector of these variables, float32 ``[D]``.

        Raises:
          JobError: a variable is missing, or has another shape here.
        """
        parts = [np.zeros(0, np.float32)]
        for variable in variables:
            value = self.dense.get(variable.path)
            if value is None or value.shape != variable.shape:
                has = "not there" if value is None else f"of shape {value.shape}"
                raise JobError(
                    f"variable '{variable.path}': of shape {variable.shape} in the model, "
                    f"but {has} in the trained model; its code and its parameters "
                    "are not of one training"
                )
            parts.append(np.ravel(value))
        return np.concatenate(parts).astype(np.float32, copy=False)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file: variables under their paths, tables as NAME/ids and NAME/rows."""
        arrays = dict(self.dense)
        for name, table in self.tables.items():
            arrays[f"{name}/ids"] = table.ids
            arrays[f"{name}/rows"] = table.rows
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)

    @classmethod
    def load(cls, path: Path, table_names: Sequence[str]) -> Parameters:
        """Read what `save` wrote.

        Raises:
          DataError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            tables = {
                name: TableRows(arrays.pop(f"{name}/ids"), arrays.pop(f"{name}/rows"))
                for name in table_names
            }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"parameters '{path}': cannot be read ({error}); train again"
            ) from error
        return cls(arrays, tables)
