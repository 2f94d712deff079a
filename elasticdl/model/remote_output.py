"""Trained models that are objects of a store: there once `trained_model.pb` is.

A store replaces one object at a time. So the old ``trained_model.pb`` goes first and the new one
comes last; in between an object names the job that writes, which may begin again.
"""

from __future__ import annotations

import os
import secrets

from elasticdl.data.filesystems import FileSystem, file_system
from elasticdl.errors import UsageError
from elasticdl.model.source import DEFINITION_FILE, read_definition

WRITING_FILE = ".elasticdl-writing"


def check_remote_output(path: str, overwrite: bool, job_name: str = "") -> None:
    """Say whether a trained model can be put there; a job may replace what it wrote itself.

    Raises:
      UsageError: something is there that must not be replaced, or the store does not say.
    """
    try:
        files, root = file_system(path)
        names = {one.path[len(root) + 1 :] for one in files.files(root)}
        if files.info(root) is not None:
            raise UsageError(f"output '{path}': is an object; give a directory")
        if not names:
            return
        if DEFINITION_FILE in names:
            writer = read_definition(root).job_name
            what = "holds a trained model already"
        elif WRITING_FILE in names:
            writer = files.read(f"{root}/{WRITING_FILE}").decode(errors="replace")
            what = f"holds part of a trained model, of job '{writer}'"
        else:
            raise UsageError(f"output '{path}': holds other files; give a new or empty directory")
    except OSError as error:
        raise UsageError(f"output '{path}': {error.strerror}") from error
    if not overwrite and (not job_name or writer != job_name):
        raise UsageError(
            f"output '{path}': {what}; give another directory, or --overwrite to replace it"
        )


def check_can_put(option: str, path: str) -> None:
    """Make an object below a path, and delete it again.

    Raises:
      UsageError: the store does not let us.
    """
    try:
        files, root = file_system(path)
        probe = f"{root}/.elasticdl-probe-{secrets.token_hex(4)}"
        files.put(probe, b"")
        files.delete(probe)
    except OSError as error:
        raise UsageError(f"{option} '{path}': cannot be written: {error.strerror}") from error


def put_model(directory: str | os.PathLike[str], path: str, job_name: str) -> None:
    """Put a trained model, which is in a local directory, where `check_remote_output` allows it.

    Raises:
      UsageError: the store does not take it.
    """
    try:
        files, root = file_system(path)
        _put(files, directory, root, job_name)
    except OSError as error:
        raise UsageError(f"output '{path}': {error.strerror}") from error


def _put(files: FileSystem, directory: str | os.PathLike[str], root: str, job_name: str) -> None:
    writing = f"{root}/{WRITING_FILE}"
    before = {one.path for one in files.files(root)}
    files.put(writing, job_name.encode())
    files.delete(f"{root}/{DEFINITION_FILE}")
    new = {
        f"{root}/{os.path.relpath(os.path.join(folder, name), directory)}"
        for folder, _, names in os.walk(directory)
        for name in names
    }
    for path in sorted(before - new - {writing}):
        files.delete(path)
    files.upload(directory, root, last=DEFINITION_FILE)
    files.delete(writing)
