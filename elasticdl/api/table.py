"""Lay out rows as a table of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out rows that have the same keys as lines, the keys above."""
    names = list(rows[0])
    cells = [[name.replace("_", " ").upper() for name in names]]
    cells += [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
