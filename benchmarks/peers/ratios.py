"""What the speeds of one run have to be to each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Rounds = Mapping[str, Sequence[float]]
"""Samples per second by contestant, one for each round."""

OURS_APART = "ours_async_apart"
OURS_SHARING = ("ours_async_1", "ours_async_2")
OURS = (OURS_APART, *OURS_SHARING)
OURS_SYNC = ("ours_sync_1", "ours_sync_2")
CEILING_ONE = "ceiling_one_core"
CEILING_ALL = "ceiling_all_cores"
PSS = ("pss_1", "pss_2")
PSS_TUNED = ("pss_tuned_1", "pss_tuned_2")
FIT = "fit"
TF_KERAS_FIT = "tf_keras_fit"


@dataclass(frozen=True)
class Demand:
    """That the best of some contestants is so many times the best of others, or more."""

    text: str
    of: tuple[str, ...]
    to: tuple[str, ...]
    target: float


@dataclass(frozen=True)
class Ratio:
    """What a demand has come to: the median over the rounds, lowest and highest."""

    text: str
    target: float
    median: float
    lowest: float
    highest: float

    @property
    def is_met(self) -> bool:
        """Whether the median is what it has to be."""
        return self.median >= self.target


DEMANDS = (
    Demand(
        "async, worker and parameter server on a core each / ceiling of one core",
        (OURS_APART,),
        (CEILING_ONE,),
        0.80,
    ),
    Demand(
        "async, all sharing the cores / ceiling of all cores", OURS_SHARING, (CEILING_ALL,), 0.65
    ),
    Demand("async / ParameterServerStrategy", OURS, PSS, 2.0),
    Demand("async / ParameterServerStrategy, lookup tuned by hand", OURS, PSS_TUNED, 2.0),
    Demand("async / tf_keras fit", OURS, (TF_KERAS_FIT,), 1.3),
    Demand("async / Keras 3 fit", OURS, (FIT,), 3.5),
    Demand("sync / async", OURS_SYNC, OURS_SHARING, 0.80),
)


def best_of(names: Sequence[str], rounds: Rounds) -> str | None:
    """Return the one of the highest median; None where none was measured."""
    measured = [name for name in names if name in rounds]
    return max(measured, key=lambda name: statistics.median(rounds[name]), default=None)


def ratios(rounds: Rounds, demands: Sequence[Demand] = DEMANDS) -> list[Ratio]:
    """Return what the demands have come to, those left out of whose sides one was not measured."""
    found = []
    for demand in demands:
        of, to = best_of(demand.of, rounds), best_of(demand.to, rounds)
        if of is None or to is None:
            continue
        each = [a / b for a, b in zip(rounds[of], rounds[to], strict=True)]
        text = f"{demand.text} ({of} / {to})"
        found.append(Ratio(text, demand.target, statistics.median(each), min(each), max(each)))
    return found
