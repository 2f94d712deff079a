"""What a job of pods has left at an object store, for when there is no master to ask."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

from elasticdl.api.kubernetes.job_copy import write_privately
from elasticdl.data.filesystems import file_system, is_remote, use_stores_of
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.last_acts import is_of_job
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.journal import FILE_NAME, read_journal
from elasticdl.master.journal_mirror import copy_journal, root_of
from elasticdl.master.recorded_ledger import MASTER

logger = logging.getLogger(__name__)

MARK = "of_store"
"""Beside a journal that is the store's. Empty: the job has not ended.

The next master may go on from before its last entries, which nobody was told of; so what a master
gives away is not added to it.
"""
_OVER, _SETTLED = b"over", b"settled"


class StoreCopy:
    """What a directory has of a job, brought up to date by the job's URI.

    Args:
      directory: is there, and says what the job is.
      job_dir: where the job's pods keep its files.
    """

    def __init__(self, directory: Path, job_dir: str) -> None:
        self._directory = directory
        self._job_dir = job_dir

    def bring(self, uid: str) -> None:
        """Bring journal, figures and result here, unless all of it is, or it is no URI.

        Args:
          uid: of the Job.
        """
        if not is_remote(self._job_dir) or self._is_complete():
            return
        try:
            use_stores_of(JobSpec.load(self._directory), patience_s=0.0)
            self._bring_result(uid)
            is_over = (self._directory / RESULT_FILE).exists()
            self._bring_journal()
            if (figures := self._read(FIGURES_FILE)) is not None:
                write_privately(self._directory / FIGURES_FILE, figures)
            write_privately(self._directory / MARK, _OVER if is_over else b"")
        except (OSError, JobError, UsageError, ValueError) as error:
            logger.warning("'%s': %s", self._job_dir, getattr(error, "strerror", None) or error)

    def is_unsettled(self) -> bool:
        """Whether the result may be of the store, and the cluster may keep it as well."""
        return self._mark() == _OVER

    def settle(self) -> None:
        """Note that the cluster keeps it no more."""
        write_privately(self._directory / MARK, _SETTLED)

    def forget(self) -> None:
        """Remove the journal if it is the store's: a master gives all of it away."""
        mark = self._directory / MARK
        if mark.exists():
            (self._directory / FILE_NAME).unlink(missing_ok=True)
            mark.unlink(missing_ok=True)

    def _is_complete(self) -> bool:
        """Whether nothing more will come: it has ended, and the end is in the journal."""
        if not (self._directory / RESULT_FILE).exists():
            return False
        if self._mark():
            return True
        try:
            last = list(read_journal(self._directory, ("result", MASTER)))[-1:]
        except JobError:
            return False
        return [one.kind for one in last] == ["result"]

    def _mark(self) -> bytes:
        try:
            return (self._directory / MARK).read_bytes()
        except FileNotFoundError:
            return b""

    def _bring_result(self, uid: str) -> None:
        path = self._directory / RESULT_FILE
        found = None if path.exists() else self._read(RESULT_FILE)
        if found is not None and is_of_job(json.loads(found), uid):
            write_privately(path, found)

    def _bring_journal(self) -> None:
        """Replace the journal as a whole: others may be reading it."""
        with tempfile.TemporaryDirectory(prefix=f".{FILE_NAME}.", dir=self._directory) as made:
            if copy_journal(root_of(self._job_dir), made):
                os.replace(Path(made) / FILE_NAME, self._directory / FILE_NAME)

    def _read(self, name: str) -> bytes | None:
        files, path = file_system(os.path.join(self._job_dir, name))
        try:
            return files.read(path)
        except FileNotFoundError:
            return None
