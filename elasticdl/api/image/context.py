"""What the Docker engine is given to build an image of: a Dockerfile and the files it names."""

from __future__ import annotations

import io
import os
import posixpath
import re
import shlex
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from elasticdl.api.image import dockerfile as names
from elasticdl.api.image.wheel import dependencies, wheel_of_installed
from elasticdl.errors import UsageError
from elasticdl.master.cluster.kubernetes.objects import OWN_ZOO
from elasticdl.master.cluster.kubernetes.objects import ZOO as FETCHED_ZOO
from elasticdl.model.trained_model import copy_zoo, zoo_files
from elasticdl.model.zoo_sources import ORIGIN_FILE, Zoo, links_leading_out

BEGINNING = "Dockerfile"
"""Of a zoo: what an image of it begins with, in place of the base image alone."""
REQUIREMENTS_FILE = "requirements.txt"
# What every image has of its own, in versions that fit each other.
_OWN = {"elasticdl", "tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-keras"}
_COMMENT = re.compile(r"(^|\s+)#.*$")
_NAMES_FILE = re.compile(r"(?:-[rc]\s*|--(?:requirement|constraint)(?:\s*=\s*|\s+))(?P<file>.+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Context:
    """A tar archive for the engine; equal files make an equal one.

    Attributes:
      left_out: files of the zoo that are too large for an image.
    """

    archive: bytes
    left_out: tuple[Path, ...]


def make_context(zoo: Zoo, base_image: str) -> Context:
    """Put together all that an image of a zoo is built from.

    Raises:
      UsageError: a link of the zoo leads out of it, its requirements name files that are not
        there, or the package has no metadata.
    """
    _check_links(zoo.directory)
    files: dict[str, bytes] = {}
    needed = dependencies()
    files[names.DEPENDENCIES] = _lines(needed)
    files[names.CONSTRAINTS] = _lines([_constraint(text) for text in needed])
    wheel = wheel_of_installed()
    files[f"{names.PACKAGE}/{wheel.name}"] = wheel.content
    with tempfile.TemporaryDirectory(prefix="elasticdl-image-") as directory:
        copy = Path(directory, names.ZOO)
        left_out = copy_zoo(zoo.directory, copy)
        for folder, _, in_folder in os.walk(copy):
            for name in in_folder:
                path = Path(folder, name)
                files[path.relative_to(directory).as_posix()] = path.read_bytes()
    if zoo.commit:
        files[f"{names.ZOO}/{ORIGIN_FILE}"] = (zoo.directory / ORIGIN_FILE).read_bytes()
    requirements = _add_requirements(files, zoo.directory)
    beginning = files.pop(f"{names.ZOO}/{BEGINNING}", f"FROM {base_image}\n".encode())
    text = names.dockerfile(beginning.decode(errors="replace"), requirements, zoo_in_image(zoo))
    files["Dockerfile"] = text.encode()
    return Context(_archive(files), tuple(left_out))


def zoo_in_image(zoo: Zoo) -> str:
    """Where an image has a zoo."""
    return FETCHED_ZOO if zoo.commit else OWN_ZOO


def _check_links(zoo: Path) -> None:
    copied = set(zoo_files(zoo))
    for link in links_leading_out(zoo):
        if link in copied:
            raise UsageError(
                f"model_zoo '{zoo}': '{link.relative_to(zoo)}' is a symbolic link that leads out "
                f"of it, to '{os.readlink(link)}', which an image does not have; "
                "put the file there itself"
            )


def _add_requirements(files: dict[str, bytes], zoo: Path) -> list[str]:
    """Put the zoo's requirements files, and those that they name, where pip is given them.

    Args:
      files: by path, those of the zoo among them; others are added.

    Returns:
      the `REQUIREMENTS_FILE`s, by path in the zoo.

    Raises:
      UsageError: one of them names what no image has.
    """
    inside = {
        name.removeprefix(f"{names.ZOO}/"): content
        for name, content in files.items()
        if name.startswith(f"{names.ZOO}/")
    }
    found = sorted(name for name in inside if Path(name).name == REQUIREMENTS_FILE)
    added = list(found)
    for name in added:  # It grows.
        files[f"{names.REQUIREMENTS}/{name}"] = _without_own(inside[name])
        for named in _named_in(inside[name]):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), named))
            if path not in inside:
                raise UsageError(
                    f"model_zoo '{zoo}': '{name}' names '{named}', and an image has no such file "
                    "of the zoo; put it there, or write out what it says"
                )
            if path not in added:
                added.append(path)
    return found


def _named_in(content: bytes) -> list[str]:
    """The files that are named by a requirements file, as it names them; not what is a URL."""
    text = content.decode(errors="replace").replace("\\\n", "")
    named = []
    for line in text.splitlines():
        if match := _NAMES_FILE.fullmatch(_COMMENT.sub("", line).strip()):
            file = _first_word(match["file"])
            if file and "://" not in file and "${" not in file:  # Which pip fetches, or fills in.
                named.append(file)
    return named


def _first_word(text: str) -> str:
    try:
        return next(iter(shlex.split(text)), "")
    except ValueError:  # A quote is left open: pip says so.
        return ""


def _lines(texts: list[str]) -> bytes:
    return "\n".join([*texts, ""]).encode()


def _constraint(text: str) -> str:
    """A requirement as pip takes it for a constraint: without extras."""
    one = Requirement(text)
    one.extras = set()
    return str(one)


def _without_own(content: bytes) -> bytes:
    """Requirements of a zoo without what every image has of its own."""
    kept = []
    for line in content.decode(errors="replace").splitlines():
        text = line.partition(" #")[0].strip()
        try:
            name = Requirement(text).name
        except InvalidRequirement:
            match = _NAME.match(text)
            name = match[0] if match else ""
        if canonicalize_name(name) not in _OWN:
            kept.append(line)
    return _lines(kept)


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
