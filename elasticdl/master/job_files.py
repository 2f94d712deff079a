"""Gives a job's files to whoever follows it from elsewhere, piece by piece."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.job_spec import JOB_FILE, JobSpec
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.journal import Journal
from elasticdl.master.journal_copy import PIECE_BYTES, piece_of
from elasticdl.master.kept_files import put_at
from elasticdl.proto import master_pb2

RESULT_FILE = "result.json"
ATTENDED_S = 5.0
"""Who has asked so lately is there, and asks again."""


def result_content(result: dict[str, Any]) -> bytes:
    """How a job ended, as its file has it."""
    return (json.dumps(result, indent=2) + "\n").encode()


def write_result(job_dir: str | Path, result: dict[str, Any]) -> None:
    """Write how a job ended, whole or not at all; a store that does not answer is not waited for.

    Args:
      job_dir: path or URI.

    Raises:
      OSError: it cannot be written.
    """
    put_at(os.path.join(job_dir, RESULT_FILE), result_content(result), patience_s=0.0)


def failed(session: str, error: str, traceback: str = "") -> dict[str, Any]:
    """The result of a job of which nothing was launched that could be asked."""
    return {"session": session, "state": "failed", "error": error, "traceback": traceback}


class JobFiles:
    """The files of one job, as its master has them. Thread-safe.

    Args:
      spec: the job, as the check has resolved it.
      directory: where this master has them.
      journal: of the job.
      session: which life of the job it is.
      clock: in seconds.
    """

    def __init__(
        self,
        spec: JobSpec,
        directory: Path,
        journal: Journal,
        session: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._description = spec.to_yaml().encode()
        self._journal = journal
        self._session = session
        self._clock = clock
        self._asked_at = float("-inf")
        self._is_taken = threading.Event()

    def piece(self, request: master_pb2.FetchRequest) -> master_pb2.FetchReply:
        """Return what comes after what the sender has of a file.

        Raises:
          JobError: no such file is given to anybody.
        """
        self._asked_at = self._clock()
        content = self._content(request.file)
        if content is None:
            return master_pb2.FetchReply(session=self._session)
        version = hashlib.sha256(content).hexdigest()
        offset = request.offset if request.version == version else 0
        if request.file == RESULT_FILE and offset == len(content):
            self._is_taken.set()
        return master_pb2.FetchReply(
            session=self._session,
            version=version,
            size=len(content),
            offset=offset,
            content=content[offset : offset + PIECE_BYTES],
        )

    def _content(self, name: str) -> bytes | None:
        if name == JOB_FILE:
            return self._description
        if name not in (FIGURES_FILE, RESULT_FILE):
            raise JobError(f"file '{name}': not one that a master gives away")
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JobError(f"'{self._directory / name}': {error.strerror}") from None

    def journal_piece(
        self, request: master_pb2.FetchJournalRequest
    ) -> master_pb2.FetchJournalReply:
        """Return what a copy of the journal lacks.

        Raises:
          JobError: it cannot be read.
        """
        self._asked_at = self._clock()
        try:
            reply = piece_of(self._journal.path, request, self._journal.told_number)
        except sqlite3.Error as error:
            raise JobError(f"journal {self._journal.path}: {error}") from None
        reply.session = self._session
        return reply

    def wait_until_taken(self, most_s: float) -> None:
        """Return once somebody who asked lately has the result, or nobody asks any more."""
        ends = self._clock() + most_s
        while (now := self._clock()) < min(ends, self._asked_at + ATTENDED_S):
            if self._is_taken.wait(min(ends, self._asked_at + ATTENDED_S) - now):
                return
