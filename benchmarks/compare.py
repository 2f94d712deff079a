"""Says how two results of `benchmarks.suite` differ: which figures moved, by what ratio.

python -m benchmarks.compare BEFORE AFTER [--by=0.1]

More than 1 is better, whatever the figure counts. Between different machines nothing is compared
but ratios. The exit code is 1 where a figure became worse by more than ``--by``, or missed a target
that it had met.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import number_text

_TINY = 1e-9


@dataclass(frozen=True)
class Move:
    """What became of one figure.

    Attributes:
      gain: how much better it is: 2 is twice as good, 0.5 half as good.
      is_lost: it misses a target now that it had met.
    """

    name: str
    unit: str
    before: float
    after: float
    gain: float
    is_lost: bool


def moves(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Move]:
    """Return what became of the figures that both results have, the worst first."""
    is_same = before["machine"]["cpu"] == after["machine"]["cpu"]
    found = []
    for benchmark, one in before["benchmarks"].items():
        later = after["benchmarks"].get(benchmark, {"figures": {}})["figures"]
        for name, old in one["figures"].items():
            new = later.get(name)
            if new is None or (old["unit"] and not is_same):
                continue
            gain = max(new["value"], _TINY) / max(old["value"], _TINY)
            found.append(
                Move(
                    f"{benchmark}: {name}",
                    old["unit"],
                    old["value"],
                    new["value"],
                    1 / gain if new["less_is_better"] else gain,
                    old["is_met"] and not new["is_met"],
                )
            )
    return sorted(found, key=lambda move: move.gain)


def show(found: Sequence[Move], by: float) -> None:
    """Print the figures that moved by more than a share."""
    moved = [each for each in found if each.is_lost or not 1 - by <= each.gain <= 1 / (1 - by)]
    table = Table(title=f"{len(moved)} of {len(found)} figures moved by more than {by:.0%}")
    table.add_column("")
    for column in ("before", "after", "gain"):
        table.add_column(column, justify="right")
    table.add_column("")
    for each in moved:
        numbers = [f"{number_text(value)} {each.unit}" for value in (each.before, each.after)]
        table.add_row(
            each.name, *numbers, f"{each.gain:.2f} x", "target lost" if each.is_lost else ""
        )
    Console(width=140).print(table)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--by", type=float, default=0.1, help="what counts as a move")
    given = parser.parse_args(words)
    results = [json.loads(path.read_text()) for path in (given.before, given.after)]
    found = moves(*results)
    show(found, given.by)
    return int(any(each.is_lost or each.gain < 1 - given.by for each in found))


if __name__ == "__main__":
    raise SystemExit(main())
