"""What was read last: tasks of one worker that share a chunk read it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class ChunkCache:
    """Chunks of files, those used last, within a number of bytes. Thread-safe.

    The chunk that was read last stays whatever its size: whoever reads a file bounds its chunks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Hashable, load: Callable[[], tuple[Any, int]], most_bytes: int) -> Any:
        """Return a chunk, loaded unless it is here.

        Args:
          key: names the file as it is now, and the chunk.
          load: returns the chunk and its size.
          most_bytes: what may stay here of earlier chunks and this one.
        """
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key][0]
        chunk, num_bytes = load()
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk, num_bytes
                self._num_bytes += num_bytes
            while self._num_bytes > most_bytes and len(self._chunks) > 1:
                _, (_, dropped) = self._chunks.popitem(last=False)
                self._num_bytes -= dropped
        return chunk


CACHE = ChunkCache()
"""The process's one, so that the bound holds over all files."""
