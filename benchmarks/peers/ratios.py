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
CEILING_EACH = "ceiling_each_core"
PSS = ("pss_1", "pss_2")
PSS_TUNED = ("pss_tuned_1", "pss_tuned_2")
FIT = "fit"
TF_KERAS_FIT = "tf_keras_fit"


@dataclass(frozen=True)
class Comparison:
    """The best of some contestants, next to the best of others."""

    text: str
    of: tuple[str, ...]
    to: tuple[str, ...]


COMPARISONS = {
    "apart": Comparison(
        "async, worker and parameter server on a core each / ceiling of one core",
        (OURS_APART,),
        (CEILING_ONE,),
    ),
    "sharing": Comparison(
        "async, all sharing the cores / ceiling of all cores", OURS_SHARING, (CEILING_ALL,)
    ),
    "sharing_each": Comparison(
        "async, all sharing the cores / ceiling of a process a core", OURS_SHARING, (CEILING_EACH,)
    ),
    "pss": Comparison("async / ParameterServerStrategy", OURS, PSS),
    "pss_tuned": Comparison(
        "async / ParameterServerStrategy, lookup tuned by hand", OURS, PSS_TUNED
    ),
    "tf_keras_fit": Comparison("async / tf_keras fit", OURS, (TF_KERAS_FIT,)),
    "fit": Comparison("async / Keras 3 fit", OURS, (FIT,)),
    "sync": Comparison("sync / async", OURS_SYNC, OURS_SHARING),
}


@dataclass(frozen=True)
class Ratio:
    """What a comparison has come to: the median over the rounds, lowest and highest.

    Attributes:
      target: what it is to be at least, if anything was demanded.
    """

    text: str
    target: float | None
    median: float
    lowest: float
    highest: float

    @property
    def is_met(self) -> bool:
        """Whether the median is what it has to be."""
        return self.target is None or self.median >= self.target


def best_of(names: Sequence[str], rounds: Rounds) -> str | None:
    """Return the one of the highest median; None where none was measured."""
    measured = [name for name in names if name in rounds]
    return max(measured, key=lambda name: statistics.median(rounds[name]), default=None)


def ratios(rounds: Rounds, targets: Mapping[str, float]) -> list[Ratio]:
    """Return what the comparisons have come to, those left out of which a side was not measured.

    Args:
      targets: what is demanded, by the comparison's key.
    """
    found = []
    for key, comparison in COMPARISONS.items():
        of, to = best_of(comparison.of, rounds), best_of(comparison.to, rounds)
        if of is None or to is None:
            continue
        each = [a / b for a, b in zip(rounds[of], rounds[to], strict=True)]
        text = f"{comparison.text} ({of} / {to})"
        ratio = Ratio(text, targets.get(key), statistics.median(each), min(each), max(each))
        found.append(ratio)
    return found
