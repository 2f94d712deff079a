"""Clipping of averaged gradients on the parameter servers (sync mode). Pure functions.

A norm is of a whole variable or table, or of all of them, whose parts lie on several partitions:
each partition sums the squares of its parts, somebody adds these sums up in the order of the
partitions, and each scales its parts by what follows from the totals. Only gradients count:
changes of model state (R8) are neither measured nor scaled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from elasticdl.ps.averaging import Gradients
from elasticdl.ps.dense_variables import SliceDefinition
from elasticdl.ps.optimizers import OptimizerConfig


def sums_of_squares(
    config: OptimizerConfig,
    layout: Sequence[SliceDefinition],
    variables: Sequence[str],
    num_tables: int,
    gradients: Gradients | None,
) -> np.ndarray | None:
    """Return this partition's sums of squares, by which a norm over all partitions is known.

    Args:
      config: the optimizer.
      layout: the partition's slices, in the order of the dense gradients.
      variables: the trainable ones of the model, on whichever partition.
      num_tables: of the model.
      gradients: the partition's; None counts as zeros.

    Returns:
      float64 ``[variables + tables]``, or None where the optimizer clips no norm.
    """
    if not (config.clipnorm or config.global_clipnorm):
        return None
    sums = np.zeros(len(variables) + num_tables)
    if gradients is not None:
        position = {name: index for index, name in enumerate(variables)}
        for name, part in _trainable_parts(layout):
            sums[position[name]] += _squares(gradients.dense[part])
        for table, (_, rows) in enumerate(gradients.tables):
            sums[len(variables) + table] = _squares(rows)
    return sums


def clip(
    config: OptimizerConfig,
    layout: Sequence[SliceDefinition],
    variables: Sequence[str],
    gradients: Gradients,
    totals: np.ndarray | None,
) -> Gradients:
    """Return the partition's gradients as the optimizer clips them; those given are kept.

    Args:
      config: the optimizer.
      layout: as in `sums_of_squares`.
      variables: likewise.
      gradients: the partition's.
      totals: the sums of squares of all partitions, added up; None where no norm is clipped.
    """
    if not config.clips:
        return gradients
    dense = gradients.dense.copy()
    if config.clipvalue:
        limit = np.float32(config.clipvalue)
        for _, part in _trainable_parts(layout):
            np.clip(dense[part], -limit, limit, out=dense[part])
        tables = [(ids, np.clip(rows, -limit, limit)) for ids, rows in gradients.tables]
        return Gradients(tuple(tables), dense)
    assert totals is not None
    factors = _factors(config, totals)
    position = {name: index for index, name in enumerate(variables)}
    for name, part in _trainable_parts(layout):
        dense[part] *= factors[position[name]]
    tables = [
        (ids, rows * factor)
        for (ids, rows), factor in zip(gradients.tables, factors[len(variables) :], strict=True)
    ]
    return Gradients(tuple(tables), dense)


def _factors(config: OptimizerConfig, totals: np.ndarray) -> np.ndarray:
    """Return by what each variable's and table's gradient is scaled, float32, at most 1."""
    if config.global_clipnorm:
        limit, norms = config.global_clipnorm, np.full(len(totals), np.sqrt(totals.sum()))
    else:
        limit, norms = config.clipnorm, np.sqrt(totals)
    return (limit / np.maximum(norms, limit)).astype(np.float32)


def _trainable_parts(layout: Sequence[SliceDefinition]) -> Iterator[tuple[str, slice]]:
    bounds = itertools.accumulate((item.length for item in layout), initial=0)
    for item, (start, end) in zip(layout, itertools.pairwise(bounds), strict=True):
        if item.trainable:
            yield item.variable, slice(start, end)


def _squares(gradients: np.ndarray) -> float:
    flat = gradients.reshape(-1).astype(np.float64)
    return float(flat @ flat)
