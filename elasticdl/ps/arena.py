"""Memory for rows that grows without copying them."""

from __future__ import annotations

import contextlib
import errno
import mmap
import sys
import threading

import numpy as np
import numpy.typing as npt

from elasticdl.ps.huge_pages import FOLDER, HUGE_BYTES, can_fold, fold

_GRANULE_BYTES = 2 << 20
# Below, pages of 2 MiB would be mostly empty, and small ones are all in the processor's tables.
_HUGE_FROM_BYTES = 64 << 20
# Address space of a large one. Moving pages that were put together takes them apart, each for half
# a millisecond: so it is made to move while there are none, and not again.
_REACH_BYTES = 64 << 30
_FLAGS = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
if hasattr(mmap, "MAP_POPULATE"):  # Linux; the mmap module has no name for MAP_NORESERVE
    _FLAGS["flags"] |= getattr(mmap, "MAP_NORESERVE", 0x4000)


class Arena:
    """A two-dimensional array of zeros whose number of rows can grow. Not thread-safe.

    Address space is taken in advance, for large ones as much as they will ever need; memory only
    when a row is first written. Growing moves page tables (mremap) where the system can, and copies
    where it cannot. Large ones get huge pages once they are filled, or where the system cannot do
    that, as they are.

    Args:
      dtype: element type.
      num_columns: elements of a row.
      is_short_lived: huge pages are not worth while.
    """

    def __init__(
        self, dtype: npt.DTypeLike, num_columns: int, is_short_lived: bool = False
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._num_columns = num_columns
        self._huge_from_bytes = sys.maxsize if is_short_lived else _HUGE_FROM_BYTES
        self.row_bytes = self._dtype.itemsize * num_columns
        # Whoever puts pages together must know where they are.
        self._lock = threading.Lock()
        self._num_folded_bytes = 0
        self._map = _new_map(max(_GRANULE_BYTES, _round_up(self.row_bytes)))
        if is_short_lived and hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # Else there are some where all memory has them.
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.rows = self._view()
        """All rows, ``[capacity, num_columns]``. Take it anew after each `reserve`."""

    def reserve(self, num_rows: int) -> None:
        """Make room for at least so many rows; those there keep their values.

        Raises:
          MemoryError: the system has no room; nothing was changed.
          BufferError: someone holds a view of `rows`, which growing would leave dangling.
        """
        if num_rows <= len(self.rows):
            return
        num_bytes = _round_up(max(num_rows, 2 * len(self.rows)) * self.row_bytes)
        is_large = num_bytes >= self._huge_from_bytes
        with self._lock:
            if not is_large or not self._reach(num_bytes):
                self._resize(num_bytes)
        if not is_large:
            return
        if can_fold():
            FOLDER.add(self)
        elif hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # A kernel without them.
                self._map.madvise(mmap.MADV_HUGEPAGE)

    def _reach(self, num_bytes: int) -> bool:
        """Take address space for a long while; return whether the system gives that much."""
        try:
            self._resize(max(_REACH_BYTES, _round_up(4 * num_bytes)))
        except MemoryError:
            return False
        return True

    def _resize(self, num_bytes: int) -> None:
        self._num_folded_bytes = 0  # What moved may have fallen apart.
        self.rows = np.empty((0, self._num_columns), self._dtype)  # a mapping in use cannot move
        try:
            self._map.resize(num_bytes)
        except SystemError:  # no mremap here
            larger = _new_map(num_bytes)
            larger[: len(self._map)] = self._map[:]
            self._map = larger
        except (OSError, OverflowError) as error:
            raise _out_of_memory(num_bytes) from error
        finally:
            self.rows = self._view()

    def fold_next(self) -> bool:
        """Put the next huge page together, in any thread; return whether there is one filled."""
        with self._lock:
            start = self.rows.ctypes.data
            first = -(-(start + self._num_folded_bytes) // HUGE_BYTES) * HUGE_BYTES
            if first + HUGE_BYTES > start + len(self._map) or not fold(first):
                return False
            self._num_folded_bytes = first + HUGE_BYTES - start
            return True

    def _view(self) -> np.ndarray:
        capacity = len(self._map) // self.row_bytes
        flat = np.frombuffer(self._map, self._dtype, capacity * self._num_columns)
        return flat.reshape(capacity, self._num_columns)


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // _GRANULE_BYTES) * _GRANULE_BYTES


def _new_map(num_bytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, num_bytes, **_FLAGS)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        raise _out_of_memory(num_bytes) from error


def _out_of_memory(num_bytes: int) -> MemoryError:
    return MemoryError(f"no room for {num_bytes} bytes of rows")
