"""The numba kernels of an image: compiled where it is built, found where it runs.

Run as a module it compiles all of them. They are for a processor that is named, not for the
builder's: numba's cache knows code by the processor it is for. An instance calls `kernel_variables`
before it imports numba, because numba passes over a cache that it cannot write.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import elasticdl

KERNELS = Path("/opt/elasticdl/kernels")
"""Where an image has them."""
MODULES = (
    "elasticdl.data.readers.kernels",
    "elasticdl.ps.averaging",
    "elasticdl.ps.bfloat16",
    "elasticdl.ps.image_kernels",
    "elasticdl.ps.kernels",
    "elasticdl.ps.lifetime_kernels",
    "elasticdl.ps.optimizer_kernels.*",
)
"""The modules whose import compiles kernels."""
MODULES_OF_WORKERS = ("elasticdl.worker.digests", "elasticdl.worker.row_sums")
"""Those that import TensorFlow as well, which an image may lack."""
# The third level of x86-64: Intel since 2013, AMD since 2015. LLVM's names, and the kernel's.
_CPU = "x86-64-v3"
_FEATURES = {
    "avx2": "avx2",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "lzcnt": "abm",
    "movbe": "movbe",
}


def cpu_variables() -> dict[str, str]:
    """What makes numba compile for the named processor; nothing where this is another kind."""
    if platform.machine() != "x86_64":
        return {"NUMBA_CPU_NAME": "generic"}
    features = ",".join(f"+{name}" for name in _FEATURES)
    return {"NUMBA_CPU_NAME": _CPU, "NUMBA_CPU_FEATURES": features}


def kernel_variables(kernels: Path = KERNELS) -> dict[str, str]:
    """What has to be in the environment of an instance before it imports numba.

    Args:
      kernels: where compiled ones are, if there are any; they are copied to where numba may write.

    Returns:
      nothing where there are none, or where this processor cannot run them: numba compiles then.
    """
    if not kernels.is_dir() or not _is_able():
        return {}
    copy = Path(tempfile.gettempdir(), "elasticdl-kernels")
    if not copy.exists():
        partial = tempfile.mkdtemp(prefix="elasticdl-kernels-")
        shutil.copytree(kernels, partial, dirs_exist_ok=True)
        os.rename(partial, copy)
    return {**cpu_variables(), "NUMBA_CACHE_DIR": str(copy)}


def compile_kernels(kernels: Path = KERNELS) -> None:
    """Compile all kernels of the package into a directory."""
    kernels.mkdir(parents=True, exist_ok=True)
    os.environ.update({**cpu_variables(), "NUMBA_CACHE_DIR": str(kernels)})
    _round_times(Path(elasticdl.__file__).parent)
    for name in kernel_modules():
        importlib.import_module(name)


def kernel_modules() -> Iterator[str]:
    """The modules whose kernels can be compiled here."""
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    for name in [*MODULES, *(MODULES_OF_WORKERS if has_tensorflow else ())]:
        package, star, _ = name.partition(".*")
        if not star:
            yield name
            continue
        found = importlib.util.find_spec(package)
        assert found is not None
        for folder in found.submodule_search_locations or ():
            stems = (path.stem for path in Path(folder).glob("*.py"))
            yield from (f"{package}.{stem}" for stem in sorted(stems) if stem != "__init__")


def _round_times(package: Path) -> None:
    """Give sources whole seconds: a layer keeps no more, and numba may compare them."""
    for path in package.rglob("*.py"):
        seconds = int(path.stat().st_mtime)
        os.utime(path, (seconds, seconds))


def _is_able() -> bool:
    """Whether this processor has what the named one has."""
    if platform.machine() != "x86_64":
        return True
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(_FEATURES.values()) <= set(flags.split())


if __name__ == "__main__":
    compile_kernels()
