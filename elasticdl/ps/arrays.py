"""Checks of the arrays that callers hand in, before a kernel trusts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def require(
    name: str, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> np.ndarray:
    """Return the array as aligned C memory, copied only if it is not so already.

    Args:
      name: what the error message calls it.
      array: any array; read-only ones are fine.
      dtype: the only accepted element type.
      shape: the only accepted shape; None stands for any length.

    Raises:
      ValueError: dtype or shape differ.
    """
    array = np.asarray(array)
    fits = array.ndim == len(shape) and all(
        wanted is None or wanted == length
        for wanted, length in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}; it must be {np.dtype(dtype)}[{lengths}]"
        )
    return np.require(array, requirements=("C", "A"))


def require_rows(name: str, rows: Any, num_rows: int) -> np.ndarray:
    """Return row indices, int64 ``[n]``, all of them in ``[0, num_rows)``; else ValueError."""
    rows = require(name, rows, np.int64, (None,))
    if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
        raise ValueError(
            f"{name} reaches from {rows.min()} to {rows.max()}; there are {num_rows} rows"
        )
    return rows
