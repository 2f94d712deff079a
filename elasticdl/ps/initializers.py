"""Initial rows of embedding tables: pure functions of the seed, the id and the column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from elasticdl.ps.arrays import require

# By kind, the name of a constant of `elasticdl.ps.kernels`.
_DISTRIBUTIONS = {
    "zeros": "CONSTANT",
    "constant": "CONSTANT",
    "uniform": "UNIFORM",
    "normal": "NORMAL",
    "truncated_normal": "TRUNCATED_NORMAL",
}


@dataclass(frozen=True)
class RowInitializer:
    """What an id's row is before any update: the same in every process, whatever else exists.

    Args:
      kind: 'zeros', 'constant' (a), 'uniform' (from a to b), 'normal' (mean a, standard deviation
        b) or 'truncated_normal' (the same, cut at two standard deviations as Keras cuts).
      seed: any int; its low 64 bits count.
      a: first parameter of the distribution.
      b: second parameter of the distribution.

    Raises:
      ValueError: an unknown kind, or a parameter that is not finite.
    """

    kind: str = "zeros"
    seed: int = 0
    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _DISTRIBUTIONS:
            raise ValueError(
                f"initializer '{self.kind}': unknown; known: {', '.join(_DISTRIBUTIONS)}"
            )
        if not (math.isfinite(self.a) and math.isfinite(self.b)):
            raise ValueError(f"initializer '{self.kind}': a={self.a}, b={self.b} must be finite")

    def rows(self, ids: np.ndarray, dim: int) -> np.ndarray:
        """Return the initial rows, float32 ``[n, dim]``, of int64 ids ``[n]``."""
        ids = require("ids", ids, np.int64, (None,))
        if self.kind == "zeros":
            return np.zeros((len(ids), dim), np.float32)
        # Not at the top: who only describes a table does not wait for numba's import.
        from elasticdl.ps import kernels

        values = np.empty((len(ids), dim), np.float32)
        kernels.fill_initial_rows(
            getattr(kernels, _DISTRIBUTIONS[self.kind]),
            np.uint64(self.seed & 0xFFFFFFFFFFFFFFFF),
            float(self.a),
            float(self.b),
            ids,
            values,
        )
        return values
