"""Counts what this process refused of others, and why."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused, and did nothing.

    UNAUTHENTICATED: it came without the job's token, or with no certificate of its authority.
    WRONG_JOB: it was meant for another job, or for another session of it.
    STALE_INCARNATION: it was meant for an earlier life of this instance, or came from one that was
      replaced.
    STALE_MASTER: a master spoke, or answered, that was followed by another one.
    FORBIDDEN_ROLE: nobody of that role may ask for it.
    REPLAYED: it had been done before: a push that was applied, a request that was answered.
    """

    UNAUTHENTICATED = "unauthenticated"
    WRONG_JOB = "wrong_job"
    STALE_INCARNATION = "stale_incarnation"
    STALE_MASTER = "stale_master"
    FORBIDDEN_ROLE = "forbidden_role"
    REPLAYED = "replayed"


class Refusals:
    """How often each was. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Reason, 0)

    def note(self, reason: Reason) -> None:
        """Count one."""
        with self._lock:
            self._counts[reason] += 1

    def told(self) -> dict[str, int]:
        """Return how often each was, of those that were, for others."""
        return {reason.value: count for reason, count in self.counts().items() if count}

    def counts(self) -> Mapping[Reason, int]:
        """Return how often each was, also those that never were."""
        with self._lock:
            return dict(self._counts)


REFUSALS = Refusals()
"""Of this process."""
