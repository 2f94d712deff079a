"""What a benchmark found: figures, each beside what it is to be."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine


@dataclass(frozen=True)
class Figure:
    """One figure: the median of the rounds.

    Attributes:
      name: of what.
      value: the median.
      unit: what it is counted in; none for a ratio.
      at_least: what it has to be at least, if anything.
      at_most: what it may be at most, if anything.
      less_is_better: of figures without a target, which way is better.
    """

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    less_is_better: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is what it has to be."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def demand(self) -> str:
        """What it has to be, in words."""
        if self.at_least is not None:
            return f"≥ {number_text(self.at_least)}"
        return "" if self.at_most is None else f"≤ {number_text(self.at_most)}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything about it as JSON has it."""
        lower = self.less_is_better or self.at_most is not None
        return {**asdict(self), "less_is_better": lower, "is_met": self.is_met}


def number_text(value: float) -> str:
    """Return a number with as many digits as say something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def report(figures: Iterable[Figure], **settings: Any) -> dict[str, Any]:
    """Return a benchmark's result: machine, settings and figures by name."""
    return {
        "machine": describe_machine(),
        "settings": settings,
        "figures": {each.name: each.as_dict() for each in figures},
    }


def show(title: str, figures: Iterable[Figure]) -> None:
    """Print figures with what they have to be."""
    machine = describe_machine()
    table = Table(
        title=f"{title}: {machine['cpu']}, {machine['cores']} cores", title_justify="left"
    )
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("")
    table.add_column("target", justify="right")
    table.add_column("met")
    for each in figures:
        met = ("yes" if each.is_met else "no") if each.demand else ""
        table.add_row(each.name, number_text(each.value), each.unit, each.demand, met)
    Console(width=120).print(table)


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options that all benchmarks of figures have."""
    parser.add_argument("--rounds", type=int, default=rounds, help="medians over so many")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")


def finish(
    given: argparse.Namespace, title: str, figures: Sequence[Figure], **settings: Any
) -> int:
    """Print figures and write them where `add_arguments` was told to; return the exit code."""
    show(title, figures)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = report(figures, rounds=given.rounds, **settings)
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(given.check and not all(each.is_met for each in figures))
