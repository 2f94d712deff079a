"""Lay out what was found as text: tables, and the report of a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out rows that have the same keys as lines, the keys above."""
    names = list(rows[0])
    cells = [[name.replace("_", " ").upper() for name in names]]
    cells += [[_shown(name, row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Lay out a report: a line for each plain value, a block for each mapping or list of rows."""
    lines: list[str] = []
    for name, value in report.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping) and value:
            lines += [f"{title}:", *(f"  {key}: {_shown(key, one)}" for key, one in value.items())]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{title}:", *(f"  {line}" for line in table_lines(value))]
        elif value not in (None, "", [], {}):
            lines.append(f"{title}: {_shown(name, value)}")
    return lines


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(name, one) for one in value)}]"
    return str(value)
