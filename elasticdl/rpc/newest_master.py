"""Which of a job's masters is the one to hear."""

from __future__ import annotations

import threading


class NewestMaster:
    """The newest master of a job that this process heard of. Thread-safe.

    Args:
      incarnation: of the master that launched this process; 0 where that is not known.
    """

    def __init__(self, incarnation: int = 0) -> None:
        self._lock = threading.Lock()
        self._incarnation = incarnation

    @property
    def incarnation(self) -> int:
        """0 as long as none was heard of."""
        return self._incarnation

    def note(self, incarnation: int) -> bool:
        """Hear of a master; return whether there is none newer. 0 is none, and always right."""
        if not incarnation:
            return True
        with self._lock:
            self._incarnation = max(self._incarnation, incarnation)
            return incarnation == self._incarnation
