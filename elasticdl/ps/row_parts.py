"""Loops over many rows, by as many threads as there are free cores."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from elasticdl.cores import usable_cores

PART_ROWS = 4096
"""Rows that a thread takes at a time: 0.1 ms of work or more."""

LEAST_ROWS = 16384
"""Of fewer rows one thread has done most before another one has woken up."""

_MOST_THREADS = 8

Result = TypeVar("Result")


class _Loop(Generic[Result]):
    """One loop, which threads take parts of."""

    def __init__(self, num_rows: int, work: Callable[[slice], Result]) -> None:
        self.results: list[Result] = []
        self._work: Callable[[slice], Result] | None = work
        self._parts = deque(
            slice(first, min(first + PART_ROWS, num_rows))
            for first in range(0, num_rows, PART_ROWS)
        )
        self._num_unfinished = len(self._parts)
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._error: BaseException | None = None

    def take_parts(self) -> None:
        """Do what nobody else has begun, until nothing is left."""
        while True:
            try:
                part = self._parts.popleft()
            except IndexError:
                return
            try:
                assert self._work is not None
                self.results.append(self._work(part))
            except BaseException as error:
                self._error = error
            with self._lock:
                self._num_unfinished -= 1
                if not self._num_unfinished:
                    self._finished.set()

    def finish(self) -> list[Result]:
        """Wait for the parts of others; return all results."""
        self._finished.wait()
        # A thread that comes late still has the loop: it must not keep arrays from growing.
        self._work = None
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # Nor must its frames, in a circle that only the collector would break.
        return self.results


class _Helpers:
    """Threads that take parts of loops; made when they are first needed. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without threads, as a forked process does."""
        self._lock = threading.Lock()
        self._num_threads = 0
        self._wanted: SimpleQueue[_Loop[Any]] = SimpleQueue()

    def call(self, loop: _Loop[Any], count: int) -> None:
        """Let so many threads, or as many as there can be, come to a loop as soon as they can."""
        with self._lock:
            # A push is not to end between two tables because the system makes no further thread.
            with contextlib.suppress(RuntimeError):
                while self._num_threads < count:
                    threading.Thread(
                        target=_help, args=(self._wanted,), name="rows", daemon=True
                    ).start()
                    self._num_threads += 1
            count = min(count, self._num_threads)
        for _ in range(count):
            self._wanted.put(loop)


def _help(wanted: SimpleQueue[_Loop[Any]]) -> None:
    while True:
        wanted.get().take_parts()


_HELPERS = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELPERS.forget)


def free_cores() -> int:
    """How many cores of the machine nobody runs on now; all where that is not known."""
    every = os.cpu_count() or 1
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            num_running = int(file.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return every
    return max(0, every - num_running)


def in_parts(num_rows: int, work: Callable[[slice], Result]) -> list[Result]:
    """Do some work for all rows: at once, or where there are many, part by part in several threads.

    Who calls takes part: whatever no other thread has begun, it does itself. Where all cores are
    busy it does everything: it would wait for who has begun a part and is not let run.

    Args:
      num_rows: how many.
      work: of a range of rows; independent of all others. What takes long releases the GIL.

    Returns:
      What it returned, in any order.
    """
    num_threads = min(_MOST_THREADS, usable_cores()) if num_rows >= LEAST_ROWS else 1
    if num_threads > 1:
        num_threads = min(num_threads, 1 + free_cores())
    if num_threads == 1:
        return [work(slice(0, num_rows))]
    loop = _Loop(num_rows, work)
    _HELPERS.call(loop, num_threads - 1)
    loop.take_parts()
    return loop.finish()
