"""The copy of a job's directory that this machine keeps of a job of pods: its master fills it."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.job_spec import JOB_FILE
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.journal_copy import JournalCopy
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client

MOST_BYTES = 1 << 28
"""No file that is fetched is longer."""
_CALL_S = 20.0


class JobCopy:
    """What a directory has of a job, brought up to date by the job's master.

    Args:
      directory: is there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._journal = JournalCopy(directory)

    def bring(self, master: Client, on_result: Callable[[], None] | None = None) -> bool:
        """Fetch what is new; return whether the job's result is among it.

        Args:
          on_result: called before the master is told that it need not stay for the result any
            more; None: it is not told so, as the result is for somebody else.

        Raises:
          RpcError: the master does not answer (any more).
          JobError: what it answers, or what is here, makes no sense.
        """
        try:
            self._bring_journal(master)
            for name in (FIGURES_FILE, JOB_FILE):
                self._bring_file(master, name)
            found, session = self._fetched(master, RESULT_FILE, b"")
            if found is None or not is_of_session(found, session):
                return False
            # What was written just before the result.
            self._bring_journal(master)
            self._bring_file(master, FIGURES_FILE)
            write_privately(self._directory / RESULT_FILE, found)
            if on_result is not None:
                on_result()
                master.call("Fetch", _request(RESULT_FILE, found), _CALL_S)
        except (sqlite3.Error, OSError) as error:
            raise JobError(f"directory '{self._directory}': {error}") from None
        return True

    def _bring_journal(self, master: Client) -> None:
        while True:
            reply = master.call("FetchJournal", self._journal.lacks(), _CALL_S)
            self._journal.add(reply)
            if reply.is_all:
                return
            if not reply.entries:
                raise JobError(f"{master.name}: a piece of its journal has nothing in it")

    def _bring_file(self, master: Client, name: str) -> None:
        path = self._directory / name
        try:
            here = path.read_bytes()
        except FileNotFoundError:
            here = b""
        found, _ = self._fetched(master, name, here)
        if found is not None and found != here:
            write_privately(path, found)

    def _fetched(self, master: Client, name: str, content: bytes) -> tuple[bytes | None, str]:
        """A file as it is there, None if it is not, and the session of who answers.

        Args:
          content: what is here of it.
        """
        request = _request(name, content)
        while True:
            reply = master.call("Fetch", request, _CALL_S)
            if not reply.version:
                return None, reply.session
            if reply.offset > len(content) or reply.size > MOST_BYTES:
                raise JobError(f"{master.name}: {reply.offset} of {reply.size} bytes of {name}")
            content = content[: reply.offset] + reply.content
            if len(content) == reply.size:
                return content, reply.session
            if not reply.content:
                raise JobError(f"{master.name}: a piece of {name} has nothing in it")
            request = master_pb2.FetchRequest(file=name, version=reply.version, offset=len(content))


def _request(name: str, content: bytes) -> master_pb2.FetchRequest:
    version = hashlib.sha256(content).hexdigest()
    return master_pb2.FetchRequest(file=name, version=version, offset=len(content))


def is_of_session(result: bytes, session: str) -> bool:
    """Whether a result is of this life of the job, and not of the one before."""
    try:
        read: dict[str, Any] = json.loads(result)
    except ValueError as error:
        raise JobError(f"{RESULT_FILE}: {error}") from None
    return read.get("session", session) == session


def write_privately(path: Path, content: bytes) -> None:
    """Write a file as a whole, for its owner alone; OSError where that cannot be done."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
