"""The installed package as a wheel, and what it depends on.

The wheel is put together from the files that this process runs, so an image has exactly those,
whether they are installed or a source tree. Equal files make an equal wheel, byte by byte.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

import elasticdl
from elasticdl.errors import UsageError

PACKAGE = "elasticdl"
EXTRA = "kubernetes"
"""What jobs of pods need, in their pods as well: the master speaks to the apiserver."""
_TIME = (1980, 1, 1, 0, 0, 0)  # The earliest that the format has.
_NOT_INSTALLED = (".pyc", ".pyo", ".nbi", ".nbc")


@dataclass(frozen=True)
class Wheel:
    """A wheel: its file's name, and its bytes."""

    name: str
    content: bytes


def wheel_of_installed() -> Wheel:
    """Make a wheel of the package that this process runs."""
    files = dict(_files(Path(elasticdl.__file__).parent))
    info = f"{PACKAGE}-{elasticdl.__version__}.dist-info"
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: elasticdl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = (
        b"[console_scripts]\nelasticdl = elasticdl.api.__main__:main\n"
    )
    record = f"{info}/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    number = hashlib.sha256(files[record]).hexdigest()[:12]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    # The number is the wheel's build: pip wants a digit first.
    name = f"{PACKAGE}-{elasticdl.__version__}-0{number}-py3-none-any.whl"
    return Wheel(name, buffer.getvalue())


def dependencies() -> list[str]:
    """What an image needs beside the package, as the package's own metadata asks for it.

    Raises:
      UsageError: the package has no metadata: it runs from a directory that is not installed.
    """
    found = []
    for text in _requires():
        one = Requirement(text)
        if one.marker is None or "extra" not in str(one.marker):
            found.append(str(one))
        elif one.marker.evaluate({"extra": EXTRA}) and not one.marker.evaluate({"extra": ""}):
            one.marker = None
            found.append(str(one))
    return sorted(found)


def _requires() -> list[str]:
    try:
        requires = importlib.metadata.requires(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        requires = None
    if not requires:
        raise UsageError(
            f"an image needs the package's metadata, and {elasticdl.__path__[0]} is not installed; "
            "pip install -e DIR, or install the package"
        )
    return requires


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(
            name for name in folders if name != "__pycache__" and not name.startswith(".")
        )
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(_NOT_INSTALLED):
                path = Path(folder, name)
                yield path.relative_to(package.parent).as_posix(), path.read_bytes()


def _metadata() -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {PACKAGE}", f"Version: {elasticdl.__version__}"]
    lines.append(f"Requires-Python: {importlib.metadata.metadata(PACKAGE)['Requires-Python']}")
    lines += [f"Requires-Dist: {text}" for text in _requires()]
    return "\n".join([*lines, f"Provides-Extra: {EXTRA}", ""])


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
