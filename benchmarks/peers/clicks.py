"""Clicks drawn from a hidden model: 26 ids of one large table, and 13 numbers.

A field has 200,000 values, drawn by Zipf's law with an exponent of 1.2, and all fields' values are
hashed into one table of a million ids: of the 26,624 ids of 1,024 records about 9,600 are distinct.
Whether a record was clicked is drawn from a logistic function of the numbers and of a weight for
each frequent value; rare ones say nothing, as no model could learn what they say.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.peers.data import LABEL
from benchmarks.peers.zoo.clicks.sizes import NUM_FIELDS, NUM_IDS, NUM_NUMERIC

_EXPONENT = 1.2
_NUM_VALUES = 200_000
_NUM_FREQUENT = 2_000
_SPREAD = 7919  # has no factor in common with the number of ids


class Clicks:
    """Draws minibatches, each of columns ``numeric``, ``categorical`` and ``label``.

    Args:
      seed: of the hidden model; training and test data need the same.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        frequency = np.arange(1, _NUM_VALUES + 1) ** -_EXPONENT
        self._cumulative = np.cumsum(frequency / frequency.sum())
        self._weights = np.zeros((NUM_FIELDS, _NUM_FREQUENT + 1))
        self._weights[:, :-1] = rng.normal(0, 0.3, (NUM_FIELDS, _NUM_FREQUENT))
        self._numeric_weights = rng.normal(0, 0.25, NUM_NUMERIC)

    def minibatches(
        self, count: int, minibatch_size: int, seed: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield minibatches of records that are drawn by a seed."""
        rng = np.random.default_rng(seed)
        fields = np.arange(NUM_FIELDS)
        for _ in range(count):
            numeric = rng.normal(size=(minibatch_size, NUM_NUMERIC)).astype(np.float32)
            drawn = np.searchsorted(self._cumulative, rng.random((minibatch_size, NUM_FIELDS)))
            values = np.minimum(drawn, _NUM_VALUES - 1)
            log_odds = numeric @ self._numeric_weights
            log_odds += self._weights[fields, np.minimum(values, _NUM_FREQUENT)].sum(axis=1)
            clicked = rng.random(minibatch_size) < 1 / (1 + np.exp(-log_odds))
            yield {
                "numeric": numeric,
                "categorical": (values * _SPREAD + fields * (NUM_IDS // NUM_FIELDS)) % NUM_IDS,
                LABEL: clicked.astype(np.float32)[:, None],
            }
