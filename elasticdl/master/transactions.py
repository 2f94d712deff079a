"""What the master decides at once is written down at once, before anybody else hears of it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from elasticdl.logs.line import fields
from elasticdl.master.backend_requests import BackendRequests
from elasticdl.master.job_view import Messages
from elasticdl.master.journal import Journal
from elasticdl.master.membership import Launch, Stop
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
      wait: called at the end of each, without the lock: waits until the journal is on disk.
    """

    def __init__(
        self,
        lock: threading.RLock,
        journal: Journal,
        messages: Messages,
        requests: BackendRequests,
        wait: Callable[[], None],
    ) -> None:
        self._lock = lock
        self._journal = journal
        self._messages = messages
        self._requests = requests
        self._wait = wait
        self._depth = 0
        self._notes: list[Note] = []
        self._asked_for: list[Launch | Stop] = []

    @contextlib.contextmanager
    def begin(self) -> Iterator[None]:
        """Begin one; within another, this is a part of that one."""
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
            if is_outermost:
                self._wait()

    def note(self, *notes: Note) -> None:
        """Have these written down, in the transaction that is under way."""
        self._notes += notes

    def ask_backend(self, *requests: Launch | Stop) -> None:
        """Ask the backend for these, in order, once the transaction is on disk."""
        self._asked_for += requests

    def _write_down(self) -> None:
        notes, self._notes = self._notes, []
        if notes:
            self._journal.write([(note.kind, note.body) for note in notes])
        for note in notes:
            if note.text:
                logger.info("%s", note.text, extra=fields(**{"journal": note.kind, **note.body}))
                self._messages.add(note.text)
        asked_for, self._asked_for = self._asked_for, []
        for request in asked_for:
            self._requests.put(self._journal.last_number, request)
