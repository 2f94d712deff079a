"""What a master has around it in a model of a job: a journal without a file, and a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from elasticdl.master.journal import Entry, Journal
from elasticdl.master.running_clock import RunningClock


class JournalInMemory(Journal):
    """A journal whose entries are on disk at once; there is no disk."""

    def __init__(self, written: Sequence[Entry] = ()) -> None:
        self.written = list(written)

    @property
    def last_number(self) -> int:
        return len(self.written)

    def entries(self) -> Iterator[Entry]:
        return iter(list(self.written))

    def write(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> int:
        for kind, body in entries:
            body = json.loads(json.dumps(body))
            self.written.append(Entry(len(self.written) + 1, 0.0, kind, body))
        return len(self.written)

    def wait_for(self, number: int) -> None:
        assert number <= len(self.written)

    def close(self) -> None:
        pass


class ModelClock(RunningClock):
    """Reads what a model says that the time is."""

    def __init__(self, read: Callable[[], float], start_s: float) -> None:
        self._read = read
        self._since = read() - start_s

    def now(self) -> float:
        return self._read() - self._since

    def tick(self) -> float:
        return self.now()

    @property
    def stands_still(self) -> bool:
        return False
