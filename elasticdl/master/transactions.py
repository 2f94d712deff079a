"""What the master decides at once is written down at once, before anybody else hears of it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from elasticdl.errors import JobError
from elasticdl.logs.line import fields
from elasticdl.master.backend_requests import BackendRequests
from elasticdl.master.job_view import Messages
from elasticdl.master.journal import Journal, Told
from elasticdl.master.membership_events import Launch, Stop
from elasticdl.master.story import Note

logger = logging.getLogger(__name__)


class Transactions:
    """One at a time: it takes in what is noted, and what the backend is to be asked for.

    All of its notes are in the journal, or none. Its messages and requests go out after them.

    Args:
      lock: re-entrant; held within a transaction.
      journal: where the notes go.
      messages: takes what the notes say to people.
      requests: takes what the backend is asked for.
      is_on_disk: told whenever somebody has waited for the journal: up to which number it is on
        disk, and why no more can be written.
      ended: once set, nobody waits for the journal any more.

    Attributes:
      end_number: the journal's number once all of the job's end is in it; None before.
    """

    def __init__(
        self,
        lock: threading.RLock,
        journal: Journal,
        messages: Messages,
        requests: BackendRequests,
        is_on_disk: Callable[[int, JobError | None], None],
        ended: threading.Event,
    ) -> None:
        self._lock = lock
        self._journal = journal
        self._messages = messages
        self._requests = requests
        self._is_on_disk = is_on_disk
        self._ended = ended
        self._depth = 0
        self._notes: list[Note] = []
        self._asked_for: list[Launch | Stop] = []
        self._is_end = False
        self.end_number: int | None = None

    @contextlib.contextmanager
    def begin(self, waits: bool = True) -> Iterator[None]:
        """Begin one; within another, this is a part of that one.

        Args:
          waits: whether its end waits until it is on disk; without it, `when_on_disk` comes before
            anybody is told of it.
        """
        is_outermost = False
        try:
            with self._lock:
                is_outermost = self._depth == 0
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                    if is_outermost:
                        self._write_down()
        finally:
            # Others go on while this one waits: a commit is for all who wait for it.
            if is_outermost and waits:
                self._wait()

    def _wait(self) -> None:
        if self._ended.is_set():
            return
        number = self._journal.last_number
        try:
            self._journal.wait_for(number)
        except JobError as error:
            self._is_on_disk(number, error)
            raise
        self._is_on_disk(number, None)

    def when_on_disk(self, told: Told) -> None:
        """Tell, in any thread, once all that is written down by now is on disk; never wait."""
        if self._ended.is_set():
            told(None)
            return

        number = self._journal.last_number

        def tell(failure: JobError | None) -> None:
            self._is_on_disk(number, failure)
            told(failure)

        self._journal.when_on_disk(number, tell)

    def note(self, *notes: Note) -> None:
        """Have these written down, in the transaction that is under way."""
        self._notes += notes

    def end_job(self) -> None:
        """The transaction that is under way ends the job."""
        self._is_end = True

    def ask_backend(self, *requests: Launch | Stop) -> None:
        """Ask the backend for these, in order, once the transaction is on disk."""
        self._asked_for += requests

    def _write_down(self) -> None:
        notes, self._notes = self._notes, []
        if notes:
            self._journal.write([(note.kind, note.body) for note in notes])
        if self._is_end and self.end_number is None:
            self.end_number = self._journal.last_number
        for note in notes:
            if note.text:
                logger.info("%s", note.text, extra=fields(**{"journal": note.kind, **note.body}))
                self._messages.add(note.text)
        asked_for, self._asked_for = self._asked_for, []
        for request in asked_for:
            self._requests.put(self._journal.last_number, request)
