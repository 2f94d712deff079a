"""How images and repositories of images are written, and what is wrong with what is none.

References:
  distribution/reference, ``reference.go``: the grammar of a reference. As Docker reads it
  (``normalize.go``), what stands before the first slash is a host where it has a dot or a colon or
  is ``localhost``.
"""

from __future__ import annotations

import re

_LONGEST_NAME = 255
_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ALGORITHM_PART = "[A-Za-z][A-Za-z0-9]*"
_DIGEST = re.compile(rf"{_ALGORITHM_PART}(?:[-_+.]{_ALGORITHM_PART})*:[0-9a-fA-F]{{32,256}}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def wrong_with_image(text: str) -> str:
    """Say what is wrong with ``[HOST[:PORT]/]PATH[:TAG][@DIGEST]`` and what to do; else nothing."""
    name, at, digest = text.partition("@")
    before, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:  # It is no port's.
        name = before
    else:
        colon = ""
    if problem := _wrong_with_name(name):
        return problem
    if colon and _TAG.fullmatch(tag) is None:
        return "a tag is at most 128 letters, digits, '_', '.' and '-'"
    if at and _DIGEST.fullmatch(digest) is None:
        return "a digest is sha256: and 64 digits of 0-9a-f"
    return ""


def wrong_with_repository(text: str) -> str:
    """As `wrong_with_image`, of what ``/NAME`` is put after: ``[HOST[:PORT]/]PATH``, or a host."""
    path = text.partition("/")[2]
    if not _SCHEME.match(text) and ("@" in text or ":" in path):
        return "leave out the tag or digest, an image gets its own"
    return _wrong_with_name(f"{text.rstrip('/')}/x")


def _wrong_with_name(name: str) -> str:
    if scheme := _SCHEME.match(name):
        return f"leave out {scheme[0]}"
    if len(name) > _LONGEST_NAME:
        return f"a name has at most {_LONGEST_NAME} characters"
    first, slash, rest = name.partition("/")
    is_host = slash and (first == "localhost" or "." in first or ":" in first)
    if is_host and _HOST.fullmatch(first) is None:
        return f"'{first}' is no host, or host and port"
    path = rest if is_host else name
    if _PATH.fullmatch(path):
        return ""
    if _PATH.fullmatch(path.lower()):
        return "a name has small letters alone"
    return (
        "a name is of small letters and digits, with single '/', '.' or '_', '__' or any '-' "
        "between them"
    )
