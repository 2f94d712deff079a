"""Launches and stops on their way to the backend, which may be slow."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from elasticdl.master.cluster.backend import Backend, BackendEvent
from elasticdl.master.instances import InstanceSpec
from elasticdl.master.journal import Journal
from elasticdl.master.membership_events import Launch, Stop
from elasticdl.master.tenure import Tenure

logger = logging.getLogger(__name__)

LOOK_S = 0.2


class BackendRequests:
    """What the backend is asked for, in the order in which it was decided. Thread-safe.

    Args:
      backend: runs the instances.
      journal: each request waits until the entry that tells of it is on disk.
      tenure: each request waits until no other master acts.
      ended: set when nothing is asked any more.
      failed: called with an exception of the backend's.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        tenure: Tenure,
        ended: threading.Event,
        failed: Callable[[Exception], None],
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._tenure = tenure
        self._ended = ended
        self._failed = failed
        self._waiting: queue.SimpleQueue[tuple[int, Launch | Stop]] = queue.SimpleQueue()

    def start(
        self, adopted: Sequence[InstanceSpec], on_event: Callable[[BackendEvent], None]
    ) -> None:
        """Have the backend adopt these and tell what happens; then ask, in a thread of its own."""
        self._tenure.wait_until_sure()
        try:
            self._backend.adopt(adopted)
            self._backend.watch(on_event)
        except Exception as error:
            logger.exception("the backend failed")
            self._failed(error)
        threading.Thread(target=self._ask_forever, name="backend", daemon=True).start()

    def put(self, entry: int, request: Launch | Stop) -> None:
        """Have the backend asked, once this entry of the journal is on disk."""
        self._waiting.put((entry, request))

    def _ask_forever(self) -> None:
        while not self._ended.is_set():
            try:
                entry, request = self._waiting.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            try:
                self._journal.wait_for(entry)
                self._tenure.wait_until_sure()
                if isinstance(request, Launch):
                    self._backend.launch(request.spec, request.needs)
                else:
                    self._backend.stop(request.spec, request.grace_s)
            except Exception as error:
                logger.exception("the backend failed")
                self._failed(error)
