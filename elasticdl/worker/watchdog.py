"""Ends a worker whose model code hangs: alive, telling so, and getting nowhere.

The master then launches another, as after a crash; where the code hangs whoever runs it, the job
ends soon, with the stacks of all threads in the worker's log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from elasticdl.instance import STUCK_EXIT_CODE

logger = logging.getLogger(__name__)

TICK_S = 1.0


@dataclass
class _Work:
    """Something under way; `seconds` of this process's running time, as its clock ticks."""

    what: str
    counts: Callable[[], bool]
    seconds: float = 0.0


class Watchdog:
    """Knows what every thread is at, and for how long. Thread-safe.

    Time is counted in ticks of a thread of this process, so that a process that was stopped, and
    goes on, has not been stuck meanwhile.

    Args:
      on_stuck: called once, with what has taken too long and how many seconds.
    """

    def __init__(self, on_stuck: Callable[[str, float], None]) -> None:
        self._on_stuck = on_stuck
        self._lock = threading.Lock()
        self._under_way: dict[int, _Work] = {}
        self._stopped = threading.Event()

    def start(self, timeout_s: float) -> None:
        """Begin to watch: nothing may take longer than `timeout_s`."""
        threading.Thread(
            target=self._tick_forever, args=(timeout_s,), name="watchdog", daemon=True
        ).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    @contextlib.contextmanager
    def watching(self, what: str, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """For the length of a block, count its time while `counts` says so."""
        thread = threading.get_ident()
        with self._lock:
            self._under_way[thread] = _Work(what, counts)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.pop(thread, None)

    def _tick_forever(self, timeout_s: float) -> None:
        while not self._stopped.wait(TICK_S):
            stuck = self._tick(timeout_s)
            if stuck is not None:
                self._on_stuck(stuck.what, stuck.seconds)
                return

    def _tick(self, timeout_s: float) -> _Work | None:
        with self._lock:
            for work in self._under_way.values():
                work.seconds = work.seconds + TICK_S if work.counts() else 0.0
                if work.seconds > timeout_s:
                    return work
        return None


def end_process(what: str, seconds: float) -> None:
    """Say where every thread is, and end this process."""
    logger.error(
        "%s has taken %.0f s so far: this worker is ended and replaced; if that is no more than it "
        "needs, raise --task_timeout. The stacks of all threads:",
        what,
        seconds,
    )
    faulthandler.dump_traceback(file=sys.stderr)
    sys.stderr.flush()
    os._exit(STUCK_EXIT_CODE)


WATCHDOG = Watchdog(end_process)
"""The one of this process; it watches once it was started."""
