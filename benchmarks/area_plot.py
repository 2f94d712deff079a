"""Draws what several have over time, one upon the other, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, PANEL_HEIGHT = 960, 150
LEFT, RIGHT, TOP, GAP = 70, 24, 64, 44
LINE = "#444444"
# Colours that people who see few of them can tell apart (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")


@dataclass(frozen=True)
class Panel:
    """One picture of several: areas upon each other, and lines over them.

    Attributes:
      title: what it shows.
      unit: of what is drawn upwards.
      times: seconds from the beginning, of the areas.
      areas: by name, what there is at these times; each holds until the next.
      lines: by name, times and values.
      mark: where a dashed line stands, if anywhere.
    """

    title: str
    unit: str
    times: Sequence[float] = ()
    areas: Mapping[str, Sequence[float]] = field(default_factory=dict)
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    mark: float | None = None

    @property
    def most(self) -> float:
        """The highest that is drawn."""
        heights = [sum(one) for one in zip(*self.areas.values(), strict=True)]
        values = [value for line in self.lines.values() for _, value in line]
        return max([*heights, *values, self.mark or 0.0]) or 1.0

    @property
    def ends_s(self) -> float:
        """The last time that is drawn."""
        return max([*self.times, *(at for line in self.lines.values() for at, _ in line)])


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Return a picture of panels, one below the other, with one axis of time."""
    longest_s = max(panel.ends_s for panel in panels)
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP)
    names = list(dict.fromkeys(name for one in panels for name in (*one.areas, *one.lines)))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    at = LEFT
    for name, colour in colours.items():
        parts.append(f'<rect x="{at}" y="31" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{at + 18}" y="41">{escape(name)}</text>')
        at += 40 + 7 * len(name)
    for number, panel in enumerate(panels):
        bottom = TOP + number * (PANEL_HEIGHT + GAP) + PANEL_HEIGHT
        parts += _panel(panel, bottom, longest_s, colours)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, bottom: float, longest_s: float, colours: dict[str, str]) -> list[str]:
    top, right = bottom - PANEL_HEIGHT + 20, WIDTH - RIGHT

    def x(at_s: float) -> float:
        return LEFT + (right - LEFT) * at_s / longest_s

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / panel.most

    parts = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.title)}</text>',
        f'<text transform="translate(14 {bottom - 10}) rotate(-90)" fill="{LINE}">'
        f"{escape(panel.unit)}</text>",
    ]
    below = [0.0] * len(panel.times)
    for name, values in panel.areas.items():
        above = [low + value for low, value in zip(below, values, strict=True)]
        way = _steps(panel.times, above)
        back = list(reversed(_steps(panel.times, below)))
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in [*way, *back])
        parts.append(
            f'<polygon class="area" points="{points}" fill="{colours[name]}" opacity="0.8"/>'
        )
        below = above
    for name, line in panel.lines.items():
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
        parts.append(
            f'<polyline class="line" points="{points}" fill="none" '
            f'stroke="{colours[name]}" stroke-width="1.5"/>'
        )
    if panel.mark is not None:
        parts.append(
            f'<line class="mark" x1="{LEFT}" y1="{y(panel.mark):.1f}" x2="{right}" '
            f'y2="{y(panel.mark):.1f}" stroke="{LINE}" stroke-dasharray="5 4"/>'
        )
    parts.append(
        f'<polyline points="{LEFT},{top} {LEFT},{bottom} {right},{bottom}" fill="none" '
        f'stroke="{LINE}"/>'
    )
    for value in _marks(panel.most, 3):
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for at_s in _marks(longest_s, 8):
        parts.append(
            f'<text x="{x(at_s):.1f}" y="{bottom + 15}" text-anchor="middle">{at_s:g} s</text>'
        )
    return parts


def _steps(times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The corners of what holds until it is another."""
    corners: list[tuple[float, float]] = []
    for at, value in zip(times, values, strict=True):
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def _marks(most: float, number: int) -> list[float]:
    """Round values from 0 up to the most."""
    about = most / number
    power = 10.0 ** math.floor(math.log10(about))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about)
    return [step * each for each in range(int(most / step) + 1)]
