"""Elastic, recoverable deep learning: Keras models on parameter servers.

Importing this package is cheap: names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticdl.api.functions import evaluate as evaluate
    from elasticdl.api.functions import predict as predict
    from elasticdl.api.functions import train as train
    from elasticdl.model.mode import Mode as Mode
    from elasticdl.model.spec import ElasticDLSpec as ElasticDLSpec
    from elasticdl.model.trained_model import load_model as load_model

__version__ = "1.0.0.dev0"

_HOME_OF_NAME = {
    "ElasticDLSpec": "elasticdl.model.spec",
    "Mode": "elasticdl.model.mode",
    "evaluate": "elasticdl.api.functions",
    "load_model": "elasticdl.model.trained_model",
    "predict": "elasticdl.api.functions",
    "train": "elasticdl.api.functions",
}

__all__ = [
    "ElasticDLSpec",
    "Mode",
    "__version__",
    "evaluate",
    "load_model",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF_NAME:
        raise AttributeError(f"module 'elasticdl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
