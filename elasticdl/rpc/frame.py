"""What a call carries: a message's bytes, and raw memory beside them that nobody copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elasticdl.memory import aligned

Buffer = memoryview | tuple[memoryview, ...]
"""Bytes (format B) that are one for the receiver; a sender may hold them in several pieces."""


@dataclass(frozen=True)
class Frame:
    """A request or a reply.

    Attributes:
      head: a serialized message.
      buffers: raw memory. What arrives has each in one piece, aligned. Whoever sends it leaves the
        memory as it is until the call is over.
    """

    head: bytes = b""
    buffers: Sequence[Buffer] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of each buffer."""
        return tuple(sum(piece.nbytes for piece in pieces_of(one)) for one in self.buffers)

    @property
    def pieces(self) -> list[memoryview]:
        """The bytes of all buffers, in order; empty pieces are left out."""
        return [piece for one in self.buffers for piece in pieces_of(one) if piece.nbytes]

    def delivered(self, placement: Placement | None = None) -> Frame:
        """Return the frame as another process would receive it: in memory of its own."""
        if placement is not None and placement.accept(self.lengths):
            _copy(self.pieces, placement.pieces)
            return Frame(self.head)
        buffers = tuple(aligned(length).data for length in self.lengths)
        _copy(self.pieces, Frame(b"", buffers).pieces)
        return Frame(self.head, buffers)


class Placement:
    """Where the buffers of a reply are to be put, if they are as long as expected.

    A frame that was put there comes back without buffers, and `is_filled` tells. The memory belongs
    to the call until that is over; a call repeated fills it again.

    Args:
      lengths: bytes of each buffer expected.
      pieces: writable memory (format B), in the order of the bytes of all buffers, as many bytes.
    """

    def __init__(self, lengths: Sequence[int], pieces: Sequence[memoryview]) -> None:
        self.pieces = [piece for piece in pieces if piece.nbytes]
        self.is_filled = False
        self._lengths = tuple(lengths)
        if sum(self._lengths) != sum(piece.nbytes for piece in self.pieces):
            raise ValueError(f"buffers of {self._lengths} bytes do not fit the pieces")

    def accept(self, lengths: Sequence[int]) -> bool:
        """Say whether buffers of these lengths are to be put here; if so, they will be."""
        self.is_filled = tuple(lengths) == self._lengths
        return self.is_filled


def pieces_of(buffer: Buffer) -> tuple[memoryview, ...]:
    """Return the pieces that a buffer is made of."""
    return buffer if isinstance(buffer, tuple) else (buffer,)


def bytes_of(array: np.ndarray) -> memoryview:
    """View an array's bytes; of one that is not C-contiguous, those of a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def rest_of(pieces: Sequence[memoryview], num_bytes: int) -> list[memoryview]:
    """Return what of some pieces follows their first bytes."""
    for position, piece in enumerate(pieces):
        if num_bytes < piece.nbytes:
            return [piece[num_bytes:], *pieces[position + 1 :]]
        num_bytes -= piece.nbytes
    return []


def _copy(sources: list[memoryview], places: list[memoryview]) -> None:
    """Copy as many bytes as there are, which are as many as there is room for."""
    while sources:
        count = min(sources[0].nbytes, places[0].nbytes)
        places[0][:count] = sources[0][:count]
        sources, places = rest_of(sources, count), rest_of(places, count)
