"""Has the C library keep freed memory for the next buffers, instead of handing it back each time.

Every minibatch needs some megabytes of buffers for a few milliseconds. By default glibc gives each
of them fresh pages, which the system first has to clear and map, one page fault for every 4 KiB.
"""

from __future__ import annotations

import ctypes
import os
import re

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

MMAP_THRESHOLD = 32 << 20
"""Bytes from which an allocation has pages of its own, that go back when it is freed; the most that
glibc allows. Large tables are above it."""

TRIM_THRESHOLD = 64 << 20
"""Freed bytes at the end of an arena that are kept."""

MOST_ARENAS = 4
"""Arenas that threads share; by default there are up to eight for every core."""

TOP_PAD = 16 << 20
"""Bytes an arena grows by beyond what is asked for."""


_is_kept = False


def keep_freed_memory() -> bool:
    """Call once, before the process needs much. Environment variables of glibc's own win.

    Returns:
      Whether that was done: not without glibc, or where the environment says otherwise.
    """
    global _is_kept
    if any(re.fullmatch(r"MALLOC_.*_|GLIBC_TUNABLES", name) for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    _is_kept = all(
        library.mallopt(option, value) == 1
        for option, value in (
            (_M_MMAP_THRESHOLD, MMAP_THRESHOLD),
            (_M_TRIM_THRESHOLD, TRIM_THRESHOLD),
            (_M_TOP_PAD, TOP_PAD),
            (_M_ARENA_MAX, MOST_ARENAS),
        )
    )
    return _is_kept


def go_on_keeping() -> None:
    """Call once a `tf.data.Dataset.from_generator` has begun; nothing happens if none is kept.

    With Python 3.11 TensorFlow sets the threshold to 128 KiB there, for the whole process: a step's
    larger buffers have fresh pages again, each time.
    """
    if _is_kept:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
