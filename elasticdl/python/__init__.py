"""The import paths of the old ElasticDL, so that its model files work as they are: one map.

A module of the old package that model files used is made of names of this one; nothing is defined
here. A name or a module that is not in the map is an error that says what to use.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

# Old module, below elasticdl.python: its names, and where they are now.
_NEW_HOMES: dict[str, dict[str, str]] = {
    "common.constants": {"Mode": "elasticdl.model.mode"},
    "elasticdl.layers": {"Embedding": "elasticdl.layers.old_embedding"},
    "elasticdl.layers.embedding": {"Embedding": "elasticdl.layers.old_embedding"},
    "elasticdl.callbacks": {
        "LearningRateScheduler": "elasticdl.callbacks",
        "MaxStepsStopping": "elasticdl.callbacks",
        "SavedModelExporter": "elasticdl.callbacks",
    },
    "data.reader.data_reader": {
        "AbstractDataReader": "elasticdl.data.data_reader",
        "Metadata": "elasticdl.data.data_reader",
    },
    "data.reader.recordio_reader": {"RecordIODataReader": "elasticdl.data.data_reader"},
    "worker.prediction_outputs_processor": {
        "BasePredictionOutputsProcessor": "elasticdl.model.prediction_outputs"
    },
}
_PREFIX = __name__ + "."
_PACKAGES = {
    old.rsplit(".", depth)[0] for old in _NEW_HOMES for depth in range(1, old.count(".") + 1)
}


class _OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the map, and the packages above them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        old = fullname.removeprefix(_PREFIX)
        if old == fullname:
            return None
        if old not in _NEW_HOMES and old not in _PACKAGES:
            raise ModuleNotFoundError(
                f"No module named '{fullname}': of the old ElasticDL's modules there are "
                f"{', '.join(_PREFIX + name for name in sorted(_NEW_HOMES))}; "
                "docs/migrating.md says what the others have become",
                name=fullname,
            )
        return importlib.machinery.ModuleSpec(fullname, self, is_package=old in _PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        homes = _NEW_HOMES.get(module.__name__.removeprefix(_PREFIX), {})
        for name, home in homes.items():
            setattr(module, name, getattr(importlib.import_module(home), name))
        module.__all__ = sorted(homes)  # type: ignore[attr-defined]


if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
    sys.meta_path.append(_OldPaths())
