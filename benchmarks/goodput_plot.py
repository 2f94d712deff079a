"""Draws how many records jobs counted over time, and when which of their processes were killed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise

WIDTH, PANEL_HEIGHT = 960, 150
LEFT, RIGHT, TOP, GAP = 80, 24, 64, 44
BIN_S = 2.0
# Colours that people who see few of them can tell apart (Okabe and Ito).
LINE = "#444444"
COLOURS = {"worker": "#0072b2", "ps": "#d55e00", "master": "#009e73"}
NAMES = {"worker": "a worker", "ps": "a parameter server", "master": "the master"}


@dataclass(frozen=True)
class Panel:
    """One job.

    Attributes:
      title: what was done to it.
      samples: seconds from the beginning, and the records counted by then, in order.
      kills: seconds from the beginning, and whose process was killed.
    """

    title: str
    samples: Sequence[tuple[float, int]]
    kills: Sequence[tuple[float, str]]

    @property
    def end_s(self) -> float:
        """When the last sample was taken."""
        return self.samples[-1][0]

    def speeds(self) -> list[tuple[float, float]]:
        """Records per second, each with the middle of the span of time in which they counted."""
        count = max(1, round(self.end_s / BIN_S))
        width_s = self.end_s / count
        times = [at for at, _ in self.samples]
        # A master that was relaunched may not know of the last ones at first.
        most = list(accumulate((records for _, records in self.samples), max))
        marks = [number * width_s for number in range(count + 1)]
        counted = [most[max(0, bisect_right(times, mark) - 1)] for mark in marks]
        return [
            ((number + 0.5) * width_s, (after - before) / width_s)
            for number, (before, after) in enumerate(pairwise(counted))
        ]


def draw(panels: Sequence[Panel], title: str, usual_per_s: float) -> str:
    """Return a picture of all panels, one below the other, as SVG.

    Args:
      panels: at least one; all have the same scales.
      title: stands above them.
      usual_per_s: records per second of an undisturbed job, drawn as a dashed line.
    """
    longest_s = max(panel.end_s for panel in panels) or 1.0
    most = max([usual_per_s, *(speed for panel in panels for _, speed in panel.speeds())]) or 1.0
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_legend(),
    ]
    for number, panel in enumerate(panels):
        bottom = TOP + number * (PANEL_HEIGHT + GAP) + PANEL_HEIGHT

        def x(at_s: float) -> str:
            return f"{LEFT + (WIDTH - LEFT - RIGHT) * at_s / longest_s:.1f}"

        def y(speed: float, bottom: float = bottom) -> str:
            return f"{bottom - (PANEL_HEIGHT - 20) * speed / most:.1f}"

        parts += _axes(panel.title, bottom, longest_s, most)
        parts.append(
            f'<line class="usual" x1="{LEFT}" y1="{y(usual_per_s)}" x2="{WIDTH - RIGHT}" '
            f'y2="{y(usual_per_s)}" stroke="{LINE}" stroke-dasharray="5 4" opacity="0.6"/>'
        )
        parts += [
            f'<line class="kill" x1="{x(at_s)}" y1="{bottom}" x2="{x(at_s)}" '
            f'y2="{bottom - PANEL_HEIGHT + 20}" stroke="{COLOURS[role]}" stroke-width="1.5">'
            f"<title>{at_s:.1f} s: {NAMES[role]}</title></line>"
            for at_s, role in panel.kills
        ]
        points = " ".join(f"{x(at_s)},{y(speed)}" for at_s, speed in panel.speeds())
        parts.append(
            f'<polyline class="speed" points="{points}" fill="none" stroke="{LINE}" '
            'stroke-width="1.5"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend() -> list[str]:
    parts, at = [], LEFT
    for role, colour in COLOURS.items():
        text = f"{NAMES[role]} is killed"
        parts.append(
            f'<line x1="{at}" y1="30" x2="{at}" y2="42" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(f'<text x="{at + 8}" y="41">{text}</text>')
        at += 30 + 7 * len(text)
    parts.append(
        f'<line x1="{at}" y1="37" x2="{at + 24}" y2="37" stroke="{LINE}" stroke-dasharray="5 4"/>'
    )
    parts.append(f'<text x="{at + 30}" y="41">undisturbed</text>')
    return parts


def _axes(title: str, bottom: float, longest_s: float, most: float) -> list[str]:
    """Draw what stands around a panel: its title, seconds below, records per second on the left."""
    right, top = WIDTH - RIGHT, bottom - PANEL_HEIGHT + 20
    parts = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(title)}</text>',
        f'<polyline points="{LEFT},{top} {LEFT},{bottom} {right},{bottom}" fill="none" '
        f'stroke="{LINE}"/>',
    ]
    step = _round_step(most / 3)
    for number in range(int(most / step) + 1):
        y = bottom - (bottom - top) * number * step / most
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.0f}</text>'
        )
    step = _round_step(longest_s / 8)
    for number in range(int(longest_s / step) + 1):
        x = LEFT + (right - LEFT) * number * step / longest_s
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{number * step:g} s</text>'
        )
    parts.append(
        f'<text transform="translate(14 {bottom - 10}) rotate(-90)" fill="{LINE}">records/s</text>'
    )
    return parts


def _round_step(about: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least as much as `about`."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about)
