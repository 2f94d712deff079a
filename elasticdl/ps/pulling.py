"""A pull: what it brings, and where each partition's part of that is put as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from elasticdl.memory import POOL
from elasticdl.rpc import Placement
from elasticdl.rpc.frame import bytes_of

_ELEMENT_BYTES = 4


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
      dense_size: elements of the flat vector; None where it is not asked for.
      spans: for each partition, where in the flat vector its slices lie, in its order.

    Attributes:
      placements: for each partition, where its reply goes.
    """

    def __init__(
        self,
        lookup: Lookup,
        dims: Sequence[int],
        dense_size: int | None,
        spans: Sequence[Sequence[tuple[int, int]]],
    ) -> None:
        self._rows = tuple(
            POOL.float32s(len(unique), dim) for unique, dim in zip(lookup.unique, dims, strict=True)
        )
        self._dense = None if dense_size is None else POOL.float32s(dense_size)
        self.placements = [
            self._placement(lookup, index, spans[index]) for index in range(len(spans))
        ]

    def _placement(self, lookup: Lookup, index: int, spans: Sequence[tuple[int, int]]) -> Placement:
        pieces = [
            bytes_of(rows[offsets[index] : offsets[index + 1]])
            for rows, offsets in zip(self._rows, lookup.offsets, strict=True)
        ]
        lengths = [piece.nbytes for piece in pieces]
        if self._dense is not None:
            flat = bytes_of(self._dense)
            pieces += [flat[_ELEMENT_BYTES * start : _ELEMENT_BYTES * end] for start, end in spans]
            lengths.append(_ELEMENT_BYTES * sum(end - start for start, end in spans))
        return Placement(lengths, pieces)

    def pulled(self, versions: Sequence[int]) -> Pulled:
        """Return what came, once every placement is filled."""
        return Pulled(self._dense, self._rows, tuple(versions))
