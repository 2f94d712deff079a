"""Dense variables on a partition: slices of them, side by side in one vector."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from elasticdl.memory import POOL
from elasticdl.proto import ps_pb2
from elasticdl.ps.arrays import require
from elasticdl.ps.optimizers import OptimizerConfig, apply_dense
from elasticdl.ps.vector_parts import VectorParts

_ELEMENT_BYTES = 4


@dataclass(frozen=True)
class SliceDefinition:
    """Consecutive elements of one flattened float32 variable, held by one bucket group.

    Args:
      variable: name of the variable.
      offset: its first element in the variable.
      length: how many elements.
      group: the bucket group.
      trainable: whether the optimizer updates it; otherwise it is state of the model.
    """

    variable: str
    offset: int
    length: int
    group: int
    trainable: bool


def plan_slices(
    variables: Sequence[tuple[str, int, bool]], num_groups: int, max_slice_bytes: int = 1 << 18
) -> list[SliceDefinition]:
    """Cut variables into slices and deal them out to groups, evenly by bytes.

    Deterministic: every process plans the same. Largest slices first, each to the lightest group.

    Args:
      variables: (name, number of elements, trainable) of each.
      num_groups: number of bucket groups.
      max_slice_bytes: a larger variable is cut into equal slices of at most this.

    Returns:
      Slices ordered by group, then in the order of variables, then by offset; an element is in
      exactly one.

    Raises:
      ValueError: a name twice, or a number out of range.
    """
    max_length = max_slice_bytes // _ELEMENT_BYTES
    if num_groups < 1 or max_length < 1:
        raise ValueError(f"{num_groups} groups, slices of {max_slice_bytes} bytes: too few")
    if len({name for name, _, _ in variables}) != len(variables):
        raise ValueError("two variables have one name")
    pieces: list[tuple[int, int, int]] = []  # length, position of the variable, offset
    for position, (name, num_elements, _) in enumerate(variables):
        if num_elements < 0:
            raise ValueError(f"variable '{name}' has {num_elements} elements")
        num_pieces = -(-num_elements // max_length)
        bounds = [num_elements * i // max(1, num_pieces) for i in range(num_pieces + 1)]
        pieces += [(end - start, position, start) for start, end in itertools.pairwise(bounds)]
    loads = [(0, group) for group in range(num_groups)]
    placed: list[tuple[int, int, int, int]] = []
    for length, position, start in sorted(pieces, key=lambda piece: (-piece[0], piece[1:])):
        load, group = heapq.heappop(loads)
        heapq.heappush(loads, (load + length, group))
        placed.append((group, position, start, length))
    return [
        SliceDefinition(variables[position][0], start, length, group, variables[position][2])
        for group, position, start, length in sorted(placed)
    ]


class DenseSlices:
    """The slices one partition holds. Not thread-safe: callers lock.

    Args:
      layout: the slices, in the order of the vector.
      optimizer: updates the trainable ones.
      undecayed: variables that its weight decay leaves out.
      momenta: by variable, what an update multiplies state by before it adds the "gradient"; 1
        where there is none.

    Attributes:
      parts: of the vector, those trained and the others.
    """

    def __init__(
        self,
        layout: Sequence[SliceDefinition],
        optimizer: OptimizerConfig,
        undecayed: Collection[str] = (),
        momenta: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.layout = tuple(layout)
        self.optimizer = optimizer
        self._without_decay = optimizer.without_weight_decay()
        lengths = np.array([item.length for item in self.layout], np.int64)
        if len(lengths) and lengths.min() < 0:
            raise ValueError("a slice has a negative length")
        self.size = int(lengths.sum())
        ends = np.cumsum(lengths).tolist()
        self.parts = VectorParts.of(
            (end - item.length, end, item.trainable)
            for end, item in zip(ends, self.layout, strict=True)
        )
        self._bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        self._groups = np.array([item.group for item in self.layout], np.int64)
        self._trainable = np.array([item.trainable for item in self.layout], bool)
        decays = [optimizer.weight_decay > 0 and x.variable not in undecayed for x in self.layout]
        self._decays = np.array(decays, bool)
        # float32 like what a worker multiplies by.
        self._momenta = np.array([momenta.get(x.variable, 1.0) for x in self.layout], np.float32)
        self._runs = _runs(np.stack((self._trainable, self._decays, self._momenta)))
        self._weights = np.zeros(self.size, np.float32)
        self._slots = np.empty((optimizer.num_slots, self.size), np.float32)
        self._reset_slots()

    @property
    def num_bytes(self) -> int:
        """Memory of weights and slots."""
        return self._weights.nbytes + self._slots.nbytes

    def values(self) -> np.ndarray:
        """Return a copy of the vector, float32 ``[size]``."""
        values = POOL.float32s(self.size)
        values[:] = self._weights
        return values

    def sent(self, dtype: ps_pb2.WireDtype) -> list[np.ndarray | list[np.ndarray]]:
        """Return copies of the vector's parts as the buffers of a frame are made of them."""
        if dtype == ps_pb2.WIRE_FLOAT32:
            return [self.values()]
        trained, state = self.parts.to_send(self._weights, dtype)
        return [trained, [part.copy() for part in state]]

    def slots(self) -> np.ndarray:
        """Return a copy of the optimizer's slots, float32 ``[num_slots, size]``."""
        return self._slots.copy()

    def load(self, values: np.ndarray, slots: np.ndarray | None = None) -> None:
        """Set the vector, and the slots: to initial values where none are given."""
        values = require("values", values, np.float32, (self.size,))
        if slots is not None:
            slots = require("slots", slots, np.float32, self._slots.shape)
        self._weights[:] = values
        if slots is None:
            self._reset_slots()
        else:
            self._slots[:] = slots

    def apply(
        self,
        gradients: np.ndarray,
        learning_rate: float,
        iterations: np.ndarray,
        apply_mask: np.ndarray,
    ) -> None:
        """Update the slices of some groups; those not trainable whatever the learning rate.

        Args:
          gradients: float32 ``[size]``.
          learning_rate: of this step.
          iterations: 1 for a group's first update, int64 ``[num_groups]``.
          apply_mask: which groups take part, bool ``[num_groups]``.

        Raises:
          ValueError: a shape or dtype is wrong; nothing was changed.
        """
        gradients = require("gradients", gradients, np.float32, (self.size,))
        iterations = require("iterations", iterations, np.int64, (None,))
        apply_mask = require("apply_mask", apply_mask, np.bool_, (len(iterations),))
        if not len(self.layout):
            return
        if self._groups.max() >= len(iterations):
            raise ValueError(f"{len(iterations)} iterations; group {self._groups.max()} needs one")
        masked = apply_mask[self._groups]
        steps = np.where(masked & self._trainable, iterations[self._groups], 0)
        # One call for each run of slices that are treated alike.
        kinds = np.stack((masked, self._trainable, steps, self._decays, self._momenta))
        for first, end in _runs(kinds):
            if masked[first]:
                self._update(first, end, gradients, learning_rate, int(steps[first]))

    def apply_all(self, gradients: np.ndarray, learning_rate: float, iteration: int) -> None:
        """Update the slices of all groups, which have had as many updates; as `apply`.

        Args:
          gradients: float32 ``[size]``.
          learning_rate: of this step.
          iteration: 1 for the groups' first update.

        Raises:
          ValueError: a shape or dtype is wrong; nothing was changed.
        """
        gradients = require("gradients", gradients, np.float32, (self.size,))
        for first, end in self._runs:
            self._update(first, end, gradients, learning_rate, iteration)

    def _update(
        self, first: int, end: int, gradients: np.ndarray, learning_rate: float, iteration: int
    ) -> None:
        """Update slices that are treated alike: from one to before another."""
        part = slice(int(self._bounds[first]), int(self._bounds[end]))
        if self._trainable[first]:
            apply_dense(
                self.optimizer if self._decays[first] else self._without_decay,
                self._weights[part],
                self._slots[:, part],
                gradients[part],
                learning_rate,
                iteration,
            )
        else:
            if self._momenta[first] != 1:
                self._weights[part] *= self._momenta[first]
            self._weights[part] += gradients[part]

    def _reset_slots(self) -> None:
        for slot in range(self.optimizer.num_slots):
            self._slots[slot] = self.optimizer.initial_slot_value(slot)


def _runs(kinds: np.ndarray) -> list[tuple[int, int]]:
    """Return where runs of equal columns begin, and end."""
    if not kinds.shape[1]:
        return []
    changes = np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(axis=0)) + 1
    return list(itertools.pairwise([0, *changes.tolist(), kinds.shape[1]]))
