"""Draws figures as bars, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, BAR, GAP = 860, 16, 8
LEFT, RIGHT, TOP = 380, 110, 44
# Colours that people who see few of them can tell apart (Okabe and Ito).
OURS, OTHERS, MISSED, LINE = "#0072b2", "#999999", "#d55e00", "#444444"


@dataclass(frozen=True)
class Bar:
    """One bar: what it is of, how long it is, what is written behind it, and its colour."""

    name: str
    length: float
    text: str
    colour: str = OTHERS


def draw(title: str, bars: Sequence[Bar], mark: float | None = None, most: float = 0.0) -> str:
    """Return a picture of bars, one below the other.

    Args:
      bars: at least one.
      mark: where a line stands that they are to reach.
      most: the longest that is drawn whole; 0 for the longest there is.
    """
    longest = most or max([each.length for each in bars] + [mark or 0.0]) or 1.0
    height = TOP + len(bars) * (BAR + GAP) + GAP
    room = WIDTH - LEFT - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{GAP}" y="22" font-size="14">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = TOP + number * (BAR + GAP)
        width = room * min(max(bar.length, 0.0), longest) / longest
        middle = top + BAR - 4
        parts += [
            f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect class="bar" x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}" '
            f'fill="{bar.colour}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{middle}">{escape(bar.text)}</text>',
        ]
    if mark is not None:
        x = LEFT + room * mark / longest
        parts.append(
            f'<line class="mark" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - GAP}" '
            f'stroke="{LINE}" stroke-dasharray="5 4"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
