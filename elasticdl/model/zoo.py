"""A model zoo: a directory of the user's Python files, imported under a name of its own.

Two zoos in one process never meet, whatever their files are called, and each `ModelZoo` reads its
files anew. Inside a zoo both
``from . import layers`` and ``import layers`` work.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.compiled import recorded_compiling
from elasticdl.model.contracts.optimizers import honoring_lr
from elasticdl.model.user_code import user_code

# A file of the zoo never stands in for these, as the process already lives on them.
_NEVER_REPLACED = {
    *sys.stdlib_module_names,
    *("elasticdl", "keras", "numpy", "tensorflow", "tf_keras"),
}
_lock = threading.RLock()


class ModelZoo:
    """Imports modules of one directory.

    Args:
      directory: the zoo.

    Attributes:
      compiled: what models are compiled with on import, by their ids.

    Raises:
      UsageError: there is no such directory.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory).resolve()
        if not self.directory.is_dir():
            kind = "is a file" if self.directory.exists() else "does not exist"
            raise UsageError(
                f"model_zoo '{directory}': {kind}; give the directory of the model's Python files"
            )
        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()[:12]
        self._package = f"_elasticdl_zoo_{digest}"
        with _lock:
            # The files may have changed since a zoo of this directory was loaded.
            for name in [each for each in sys.modules if _top(each) == self._package]:
                del sys.modules[name]
        self._siblings: dict[str, ModuleType] = {}
        self._policy: Any = None
        self.compiled: dict[int, dict[str, Any]] = {}
        self._thread = threading.local()

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let ``import name`` find the zoo's files inside the block, and only there.

        Keras's global dtype policy is the one that the zoo's code has set, there only as well.
        """
        with _lock, self.own_policy():
            others = self._take_modules()
            sys.modules.update(self._siblings)
            sys.path.insert(0, str(self.directory))
            try:
                yield
            finally:
                sys.path.remove(str(self.directory))
                self._siblings.update(self._take_modules())
                sys.modules.update(others)

    @contextmanager
    def own_policy(self) -> Iterator[None]:
        """Let Keras's global dtype policy, which is of a thread, be that of the zoo's code."""
        if getattr(self._thread, "is_inside", False):
            yield
            return
        outer = _swap_policy(self._policy)
        self._thread.is_inside = True
        try:
            yield
        finally:
            self._thread.is_inside = False
            self._policy = _swap_policy(outer)

    def load(self, relative: Path) -> ModuleType:
        """Import one file of the zoo.

        Args:
          relative: path of a ``.py`` file, or of a directory, below the zoo.

        Raises:
          UserCodeError: the module raises; with its traceback.
        """
        parts = relative.with_suffix("").parts
        what = f"importing '{self.directory / relative}'"
        with self.importable(), honoring_lr(), recorded_compiling(self.compiled), user_code(what):
            if self._package not in sys.modules:
                package = ModuleType(self._package, "A model zoo.")
                package.__path__ = [str(self.directory)]
                sys.modules[self._package] = package
            importlib.invalidate_caches()
            with _no_bytecode():
                return importlib.import_module(".".join([self._package, *parts]))

    def _take_modules(self) -> dict[str, ModuleType]:
        """Remove the modules that have names of the zoo's files, and return them."""
        if not any(name in sys.modules for name in self._top_level_names):
            return {}
        # A copy, made at once: other threads of this process, a dashboard's for one, may import.
        names = [name for name in list(sys.modules) if _top(name) in self._top_level_names]
        return {name: sys.modules.pop(name) for name in names}

    @cached_property
    def _top_level_names(self) -> set[str]:
        names = {path.stem for path in self.directory.glob("*.py")}
        names |= {path.name for path in self.directory.iterdir() if path.is_dir()}
        return names - _NEVER_REPLACED


def _swap_policy(policy: Any) -> Any:
    """Set Keras's global dtype policy, None being the default, and return the one before."""
    # Where Keras is not imported there is no policy; a zoo that sets one imports it.
    precision = [
        keras.mixed_precision
        for name in ("keras", "tf_keras")
        if (keras := sys.modules.get(name)) is not None and hasattr(keras, "mixed_precision")
    ]
    before = [(each, each.global_policy()) for each in precision]
    given = dict(policy or ())
    for each in precision:
        each.set_global_policy(given.get(each, "float32"))
    return before


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Write no compiled files: they hide an edit of equal size in the same second."""
    outer = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = outer


def _top(module_name: str) -> str:
    return module_name.partition(".")[0]
