"""What of a model lives on the parameter servers, by name; known without TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules


@dataclass(frozen=True)
class TableDefinition:
    """An embedding table: its name, the length of a row, what a new row is, which rows live.

    The rows of a frozen one are pulled, but never change.
    """

    name: str
    dim: int
    initializer: RowInitializer
    frozen: bool = False
    rules: LifetimeRules = field(default_factory=LifetimeRules)


@dataclass(frozen=True)
class VariableDefinition:
    """A float32 variable; those that are not trainable are state of the model.

    A moving average keeps the share `momentum` of its value in a step, and gets the rest from the
    minibatch. Of other state (1) a step adds its change.
    """

    path: str
    shape: tuple[int, ...]
    trainable: bool
    momentum: float = 1.0

    @property
    def num_elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)
