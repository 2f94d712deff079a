"""What is to be asked of an apiserver, one thing after the other, now or later."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from elasticdl.errors import JobError

logger = logging.getLogger(__name__)

Action = Callable[[], None]


class Agenda:
    """Carries actions out in a thread of its own, each when it is due. Thread-safe.

    Args:
      wait: returns when something may be asked, before each action; JobError: never again.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._due: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="agenda", daemon=True)

    def start(self) -> None:
        """Begin with what is due, unless it has begun."""
        if not self._thread.is_alive():
            self._thread.start()

    def add(self, action: Action, after_s: float = 0.0) -> None:
        """Carry an action out after some time, after all that are due before."""
        with self._changed:
            entry = (time.monotonic() + after_s, next(self._numbers), action)
            heapq.heappush(self._due, entry)
            self._changed.notify()

    def close(self) -> None:
        """Begin nothing any more; wait for what was begun."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            try:
                self._wait()
            except JobError as error:
                logger.info("nothing is asked any more: %s", error)
                return
            if self._is_closed:
                return
            try:
                action()
            except Exception:
                logger.exception("what was asked of the apiserver failed")

    def _next(self) -> Action | None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - now if self._due else None)
        return None
