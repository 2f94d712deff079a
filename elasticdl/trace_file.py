"""An instance's part of a job's trace (--profile): one JSON object a line, of bounded size."""

from __future__ import annotations

import json
import logging
import threading
import time
from io import TextIOWrapper
from pathlib import Path

from elasticdl.phases import PHASES

logger = logging.getLogger(__name__)

PROFILE = "profile"
PARTS = "parts"
MOST_EVENTS = 8_000
"""Of one segment; an instance keeps the first one and the last two."""
FLUSH_NS = 500_000_000


def trace_instance(job_dir: str | Path, role: str, index: int, incarnation: int) -> None:
    """Write what this process counts into the job's trace from now on."""
    try:
        PHASES.trace_to(TraceFile(job_dir, f"{role}-{index}.{incarnation}"))
    except OSError as error:
        logger.warning("no trace is written: %s", error)


class TraceFile:
    """Writes events into segments: of a long run its beginning and its end stay. Thread-safe.

    A process that is killed loses the last half second at most; where a segment cannot be written,
    the trace ends.

    Args:
      job_dir: the job's directory.
      name: of the instance, `worker-0.1`; no other may have it.
    """

    def __init__(self, job_dir: str | Path, name: str, most_events: int = MOST_EVENTS) -> None:
        self._directory = Path(job_dir) / PROFILE / PARTS
        self._directory.mkdir(parents=True, exist_ok=True)
        self._name = name
        self._most_events = most_events
        self._lock = threading.Lock()
        self._offset_ns = time.time_ns() - time.perf_counter_ns()
        self._number = 0
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._file: TextIOWrapper | None = self._path(self._number).open("w")
        self._num_events = 0
        self._threads: set[int] = set()
        self._flush_at_ns = 0

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}.{number}.jsonl"

    def add(self, name: str, category: str, began_ns: int, ended_ns: int) -> None:
        """Take down what this thread did, and when, by `perf_counter_ns`."""
        thread = threading.get_native_id()
        at, duration = (began_ns + self._offset_ns) / 1e3, (ended_ns - began_ns) / 1e3
        line = (
            f'{{"name":"{name}","cat":"{category}","ph":"X","ts":{at:.3f},"dur":{duration:.3f},'
            f'"tid":{thread}}}\n'
        )
        with self._lock:
            if self._file is None:
                return
            try:
                self._write(line, thread, ended_ns)
            except OSError as error:
                logger.warning("the trace ends: %s", error)
                self._file = None

    def _write(self, line: str, thread: int, now_ns: int) -> None:
        if self._num_events == self._most_events:
            self._next_segment()
        assert self._file is not None
        if thread not in self._threads:
            self._threads.add(thread)
            self._name_thread(thread)
        self._file.write(line)
        self._num_events += 1
        if now_ns > self._flush_at_ns:
            self._file.flush()
            self._flush_at_ns = now_ns + FLUSH_NS

    def _next_segment(self) -> None:
        assert self._file is not None
        self._file.close()
        if self._number > 1:
            self._path(self._number - 1).unlink(missing_ok=True)
        self._number += 1
        self._begin_segment()

    def _name_thread(self, thread: int) -> None:
        assert self._file is not None
        args = {"name": threading.current_thread().name}
        event = {"name": "thread_name", "ph": "M", "tid": thread, "args": args}
        self._file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        """Nothing will follow."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
