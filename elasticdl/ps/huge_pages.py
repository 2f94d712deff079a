"""Huge pages for memory that stays: random rows of gigabytes spend most time finding pages else.

A huge page that is taken when its memory is first touched has to be cleared as a whole by whoever
touches it: a push, or a restore, waits for milliseconds where a virtual machine gets its memory in
small pages. So memory is filled in small pages, and a thread puts them together afterwards.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

HUGE_BYTES = 2 << 20

_COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1; the mmap module has no name for it
_PAUSE_S = 1.0
_REST = 3.0
"""How much longer the thread rests than it works: a quarter of a core at most."""


class Foldable(Protocol):
    """Memory whose pages may be put together."""

    def fold_next(self) -> bool:
        """Put the next huge page together; return whether there was anything to do."""
        ...


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def fold(address: int) -> bool:
    """Put the 2 MiB at an address, a multiple of that, into a huge page.

    Their content may be read and written meanwhile. Other threads may run.

    Returns:
      False if nothing was done: nothing is there yet, or the system has no such page now.
    """
    advise = _advise()
    return advise is not None and not advise(address, HUGE_BYTES, _COLLAPSE)


@functools.cache
def can_fold() -> bool:
    """Whether this system puts pages together when it is asked to."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return False
    with mmap.mmap(-1, 2 * HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        view = (ctypes.c_char * len(memory)).from_buffer(memory)
        start = ctypes.addressof(view)
        first = -start % HUGE_BYTES
        memory[first] = 1
        is_folded = fold(start + first)
        del view
    return is_folded


class Folder:
    """A thread that puts together the pages of some memory as it fills up. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[Foldable] = weakref.WeakSet()
        self._is_running = False

    def add(self, memory: Foldable) -> None:
        """Look after some memory as long as it is there."""
        with self._lock:
            self._all.add(memory)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="huge pages", daemon=True).start()

    def forget(self) -> None:
        """Begin anew, as a forked process does: it has no such thread."""
        self._lock = threading.Lock()
        self._all, self._is_running = weakref.WeakSet(), False

    def _run(self) -> None:
        while True:
            time.sleep(_PAUSE_S)
            with self._lock:
                # What nobody uses any more is not to stay because of this.
                waiting = [weakref.ref(one) for one in self._all]
                if not waiting:
                    self._is_running = False
                    return
            for one in waiting:
                _fold_all(one)


def _fold_all(memory: weakref.ref[Foldable]) -> None:
    began = time.monotonic()
    while (one := memory()) is not None and one.fold_next():
        del one
        time.sleep(_REST * (time.monotonic() - began))
        began = time.monotonic()


FOLDER = Folder()
"""The process's own."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FOLDER.forget)
