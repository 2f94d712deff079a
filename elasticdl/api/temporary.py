"""A directory for the temporary files of a process that ends without a farewell."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def own_temporary_directory() -> Iterator[None]:
    """Have all temporary files of this process made in a directory that goes with the block.

    TensorFlow leaves some for the interpreter's end, which `elasticdl.api.__main__` does not wait
    for. Not for a process that others run: it may have files of its own.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="elasticdl-") as directory:
        tempfile.tempdir = directory
        try:
            yield
        finally:
            tempfile.tempdir = before
