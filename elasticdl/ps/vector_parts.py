"""Which parts of a vector of variables travel together, and what they are sent as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps import bfloat16, frames


@dataclass(frozen=True)
class VectorParts:
    """Parts of a float32 vector, in the order in which a partition has them.

    As float32 they travel in one buffer. As bfloat16 in two: what is trained, half as long, and
    model state as it is. Such a value may be large next to its changes (a mean far from 0), which
    the 8 bits of a bfloat16 would not show; and there is little of it.

    Attributes:
      every: all of them.
      trained: those of trainable variables.
      state: the others.
    """

    every: tuple[slice, ...]
    trained: tuple[slice, ...]
    state: tuple[slice, ...]

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, int, bool]]) -> VectorParts:
        """Make them of (start, end, trainable); neighbours become one."""
        known = list(pieces)
        return cls(
            _merged((start, end) for start, end, _ in known),
            _merged((start, end) for start, end, trainable in known if trainable),
            _merged((start, end) for start, end, trainable in known if not trainable),
        )

    @property
    def size(self) -> int:
        """Elements of all of them."""
        return _size(self.every)

    def to_send(
        self, vector: np.ndarray, dtype: ps_pb2.WireDtype
    ) -> list[np.ndarray | list[np.ndarray]]:
        """Return what the buffers of a frame are made of; float32 parts are views of the vector."""
        if dtype == ps_pb2.WIRE_FLOAT32:
            return [[vector[part] for part in self.every]]
        trained = bfloat16.narrow(*(vector[part] for part in self.trained))
        return [trained, [vector[part] for part in self.state]]

    def widen(self, halves: np.ndarray, vector: np.ndarray) -> None:
        """Set what is trained of a vector, from the same places of a uint16 vector."""
        for part in self.trained:
            bfloat16.widen(halves[part], vector[part])

    def read(self, buffers: Sequence[memoryview], dtype: ps_pb2.WireDtype) -> np.ndarray:
        """Return what came of all parts, side by side, float32; as float32 it is the buffer itself.

        The parts must be all of a vector.

        Raises:
          FrameError: the buffers have other lengths.
        """
        size = self.size
        if len(buffers) != num_buffers(dtype):
            raise frames.FrameError(f"{len(buffers)} buffers of dense values")
        if dtype == ps_pb2.WIRE_FLOAT32:
            values = frames.float32s(buffers[0])
            if len(values) != size:
                raise frames.FrameError(f"{len(values)} dense values; there are {size}")
            return values
        trained, state = frames.bfloat16s(buffers[0]), frames.float32s(buffers[1])
        if (len(trained), len(state)) != (_size(self.trained), _size(self.state)):
            raise frames.FrameError(
                f"{len(trained)} values of trained variables and {len(state)} of others; "
                f"there are {_size(self.trained)} and {_size(self.state)}"
            )
        values = np.empty(size, np.float32)
        end = 0
        for part in self.trained:
            start, end = end, end + part.stop - part.start
            bfloat16.widen(trained[start:end], values[part])
        end = 0
        for part in self.state:
            start, end = end, end + part.stop - part.start
            values[part] = state[start:end]
        return values


def num_buffers(dtype: ps_pb2.WireDtype) -> int:
    """Return in how many buffers dense values travel."""
    return 1 if dtype == ps_pb2.WIRE_FLOAT32 else 2


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[slice, ...]:
    found: list[slice] = []
    for start, end in spans:
        if found and found[-1].stop == start:
            found[-1] = slice(found[-1].start, end)
        else:
            found.append(slice(start, end))
    return tuple(found)


def _size(parts: Sequence[slice]) -> int:
    return sum(part.stop - part.start for part in parts)
