"""A pull: what it brings, and where each partition's part of that is put as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from elasticdl.memory import POOL
from elasticdl.proto import ps_pb2
from elasticdl.ps import bfloat16
from elasticdl.ps.vector_parts import VectorParts
from elasticdl.rpc import Placement
from elasticdl.rpc.frame import bytes_of


@dataclass(frozen=True)
class Lookup:
    """The distinct ids of one minibatch, ordered by partition, for each table.

    unique: int64 ``[u]``; inverse: int32 ``[n]``; offsets: int64 ``[partitions + 1]`` into unique.
    """

    unique: tuple[np.ndarray, ...]
    inverses: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Pulled:
    """What a pull brought; its arrays are aligned, and nobody changes them.

    dense: float32 ``[D]``, None unless asked for; rows: float32 ``[u, dim]`` of each table, in the
    order of the lookup; versions: of each partition.
    """

    dense: np.ndarray | None
    rows: tuple[np.ndarray, ...]
    versions: tuple[int, ...]

    def with_dense_of(self, earlier: Pulled) -> Pulled:
        """Return these rows with the dense variables, and the versions, of an earlier pull."""
        return Pulled(earlier.dense, self.rows, earlier.versions)


class PendingPull:
    """A pull under way; `result` waits for it. Its results are taken by one thread."""

    def __init__(self, finish: Callable[[], Pulled]) -> None:
        self._finish: Callable[[], Pulled] | None = finish
        self._pulled: Pulled | None = None

    def result(self) -> Pulled:
        """Return what came, as often as it is asked for.

        Raises:
          StaleCluster: a partition moved.
          PinGone: a partition does not have the pin that was named.
          DeadlinePassed: a partition did not answer in time.
        """
        if self._pulled is None:
            assert self._finish is not None
            self._pulled = self._finish()
            self._finish = None
        return self._pulled


class Incoming:
    """The memory of one pull.

    Args:
      lookup: the ids.
      dims: width of each table's rows.
      dtype: what comes.
      whole: of the flat vector; None where it is not asked for.
      parts: of the flat vector, for each partition.

    Attributes:
      placements: for each partition, where its reply goes.
    """

    def __init__(
        self,
        lookup: Lookup,
        dims: Sequence[int],
        dtype: ps_pb2.WireDtype,
        whole: VectorParts | None,
        parts: Sequence[VectorParts],
    ) -> None:
        self._is_half = dtype == ps_pb2.WIRE_BFLOAT16
        self._whole = whole
        coming = np.uint16 if self._is_half else np.float32
        self._rows = tuple(
            POOL.array(coming, len(unique), dim)
            for unique, dim in zip(lookup.unique, dims, strict=True)
        )
        size = 0 if whole is None else whole.size
        self._dense = POOL.float32s(size)
        # As long as all of it, though only what is trained comes in halves.
        self._halves = POOL.array(np.uint16, size if self._is_half else 0)
        self.placements = [self._placement(lookup, index, own) for index, own in enumerate(parts)]

    def _placement(self, lookup: Lookup, index: int, parts: VectorParts) -> Placement:
        buffers = [
            [rows[offsets[index] : offsets[index + 1]]]
            for rows, offsets in zip(self._rows, lookup.offsets, strict=True)
        ]
        if self._whole is not None and self._is_half:
            buffers.append([self._halves[part] for part in parts.trained])
            buffers.append([self._dense[part] for part in parts.state])
        elif self._whole is not None:
            buffers.append([self._dense[part] for part in parts.every])
        return Placement(
            [sum(piece.nbytes for piece in pieces) for pieces in buffers],
            [bytes_of(piece) for pieces in buffers for piece in pieces],
        )

    def pulled(self, versions: Sequence[int]) -> Pulled:
        """Return what came, once every placement is filled."""
        rows = self._rows
        if self._is_half:
            rows = tuple(bfloat16.widened(each) for each in rows)
        if self._whole is None:
            return Pulled(None, rows, tuple(versions))
        if self._is_half:
            self._whole.widen(self._halves, self._dense)
        return Pulled(self._dense, rows, tuple(versions))
