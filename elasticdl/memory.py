"""Memory that is used again once nobody sees it any more."""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""What vector instructions, and TensorFlow, want memory to start at a multiple of."""
SMALLEST_BYTES = 1 << 14
"""Below, the system's allocator does as well."""
MOST_UNUSED_BYTES = 1 << 29


class MemoryPool:
    """Hands out aligned memory. Thread-safe.

    Memory fresh from the system costs a page fault every 4 KiB. What `take` returns comes back by
    itself when the last view of it is gone: slices, arrays and tensors made of it count.

    Args:
      most_unused_bytes: what is unused beyond is given back to the system.
    """

    def __init__(self, most_unused_bytes: int = MOST_UNUSED_BYTES) -> None:
        self._most_unused_bytes = most_unused_bytes
        # Reentrant: the garbage collector may run anywhere, and what it frees comes back.
        self._lock = threading.RLock()
        # By size; the one that was used last comes last.
        self._unused: dict[int, list[np.ndarray]] = {}
        self._num_unused_bytes = 0
        self._leases: dict[int, weakref.ref[np.ndarray]] = {}

    @property
    def num_unused_bytes(self) -> int:
        """What is kept for the next to take."""
        return self._num_unused_bytes

    def take(self, num_bytes: int) -> memoryview:
        """Return writable bytes that start at a multiple of `ALIGNMENT`, with anything in them."""
        if num_bytes < SMALLEST_BYTES:
            return aligned(num_bytes).data
        size = _rounded(num_bytes)
        with self._lock:
            block = self._pop(size)
        if block is None:
            block = aligned(size)
        # All views of it keep this one alive; those of an array keep only the block.
        lease = np.frombuffer(block.data, np.uint8, num_bytes)
        key = id(block)

        def give_back(_: object, block: np.ndarray = block) -> None:
            with self._lock:
                self._leases.pop(key, None)
                self._keep(size, block)

        with self._lock:
            self._leases[key] = weakref.ref(lease, give_back)
        return lease.data

    def _pop(self, size: int) -> np.ndarray | None:
        blocks = self._unused.pop(size, None)
        if blocks is None:
            return None
        block = blocks.pop()
        self._num_unused_bytes -= size
        if blocks:
            self._unused[size] = blocks
        return block

    def _keep(self, size: int, block: np.ndarray) -> None:
        """Keep a block, in the place of what was not used for longest."""
        if size > self._most_unused_bytes:
            return
        blocks = self._unused.pop(size, [])
        while self._num_unused_bytes + size > self._most_unused_bytes:
            oldest = next(iter(self._unused), None)
            if oldest is None:  # All there is are of this size.
                break
            self._pop(oldest)
        else:
            blocks.append(block)
            self._num_unused_bytes += size
        if blocks:
            self._unused[size] = blocks

    def array(self, dtype: npt.DTypeLike, *shape: int) -> np.ndarray:
        """Return such memory as an array."""
        num_bytes = np.dtype(dtype).itemsize * math.prod(shape)
        return np.frombuffer(self.take(num_bytes), dtype).reshape(shape)

    def float32s(self, *shape: int) -> np.ndarray:
        """Return such memory as a float32 array."""
        return self.array(np.float32, *shape)


POOL = MemoryPool()
"""The process's own."""


def aligned(num_bytes: int) -> np.ndarray:
    """Return new memory, uint8 ``[num_bytes]``, that starts at a multiple of `ALIGNMENT`."""
    raw = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + num_bytes]


def _rounded(num_bytes: int) -> int:
    """Return the next size in steps of an eighth, so that alike requests share memory."""
    step = max(SMALLEST_BYTES, 1 << (num_bytes.bit_length() - 4))
    return -(-num_bytes // step) * step
