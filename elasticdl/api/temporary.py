"""A directory for the temporary files of a process that ends without a farewell."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator

# Waits for the end of its input, which this process's end is, however it comes.
_REMOVE_AT_THE_END = 'read -r _; rm -rf -- "$0"'


@contextlib.contextmanager
def own_temporary_directory() -> Iterator[None]:
    """Have all temporary files of this process made in a directory that goes with the block.

    It goes as well if this process is killed. TensorFlow leaves some files for the interpreter's
    end, which `elasticdl.api.__main__` does not wait for. Not for a process that others run: it may
    have files of its own.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="elasticdl-") as directory:
        remover = subprocess.Popen(
            ["/bin/sh", "-c", _REMOVE_AT_THE_END, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        tempfile.tempdir = directory
        try:
            yield
        finally:
            tempfile.tempdir = before
            remover.kill()
            remover.communicate()
