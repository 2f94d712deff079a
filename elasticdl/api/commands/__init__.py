"""The commands of the command line, a file for each group of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: the words that call it, one line about it, and what it does.

    Args:
      words: e.g. ``("data", "convert")``.
      summary: one line for the list of commands.
      run: takes the words after the command; raises `ElasticDLError` where it cannot.
    """

    words: tuple[str, ...]
    summary: str
    run: Callable[[Sequence[str]], None]

    @property
    def name(self) -> str:
        return " ".join(self.words)
