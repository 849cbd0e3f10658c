"""The report's pictures: curves in pixels. Only geometry and how curves are told apart; the template draws.

Each section has two: the whole, and a window on the routers around the cost at which quality is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from roster.lm.results import Row, Section

WIDTH, HEIGHT, MARGIN = 860, 420, 56
_TICKS = 5
_AROUND = (0.25, 2.0)
"""The window's costs, relative to the cost where quality is read."""
_DASHES = {
    "router": ("none", "9 3", "2 2.5"),
    "yardstick": ("6 4", "1 4", "12 4", "12 4 2 4", "4 2"),
    "bound": ("2 3",),
}

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One drawn curve: SVG points, how it is told apart, and where the setting that validation chose lies."""

    router: str
    kind: str
    points: str
    hue: int
    dash: str
    dot: Point | None


@dataclass(frozen=True)
class Picture:
    """Curves with their axes; `read_x` is the cost where quality is read."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    read_x: float


@dataclass(frozen=True)
class _Window:
    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def at(self, cost: float, quality: float) -> Point:
        x = MARGIN + (cost - self.low_x) / ((self.high_x - self.low_x) or 1.0) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (quality - self.low_y) / ((self.high_y - self.low_y) or 1.0) * (HEIGHT - 2 * MARGIN)
        return round(x, 1), round(y, 1)


def whole(section: Section) -> Picture:
    """All curves; each runs on, level, to the dearest corner of all."""
    corners = [corner for row in section.rows for corner in row.curve]
    costs, qualities = [c for c, _ in corners], [q for _, q in corners]
    return _drawn(section, _Window(min(costs), max(costs), min(qualities), max(qualities)))


def around_routers(section: Section) -> Picture:
    """The routers' curves near the cost where quality is read, filling the picture; others are cut at its edge."""
    routers = [row for row in section.rows if row.kind == "router"] or section.rows
    costs = [cost for row in routers for cost, _ in row.curve]
    low, high = (share * section.cost_of_random for share in _AROUND)
    low, high = max(low, min(costs)), min(high, max(max(costs), section.cost_of_random))
    grid = np.linspace(low, max(low, high), 50)
    seen = [np.interp(grid, *np.array(_path(row, high)).T)[grid >= row.curve[0][0]] for row in routers]
    qualities = np.concatenate([*seen, [row.quality.value for row in routers if math.isfinite(row.quality.value)]])
    room = 0.05 * (float(np.ptp(qualities)) or 0.1)
    return _drawn(section, _Window(low, max(low, high), float(qualities.min()) - room, float(qualities.max()) + room))


def _drawn(section: Section, window: _Window) -> Picture:
    lines, met = [], {kind: 0 for kind in _DASHES}
    routers = max(1, sum(row.kind == "router" for row in section.rows))
    for row in section.rows:
        points = " ".join(f"{x},{y}" for x, y in (window.at(*each) for each in _path(row, window.high_x)))
        nth, dashes = met[row.kind], _DASHES[row.kind]
        met[row.kind] += 1
        dot = window.at(section.cost_of_random, row.quality.value) if math.isfinite(row.quality.value) else None
        lines.append(Line(row.router, row.kind, points, nth * 360 // routers, dashes[nth % len(dashes)], dot))
    steps = [i / (_TICKS - 1) for i in range(_TICKS)]
    xs = [window.low_x + step * (window.high_x - window.low_x) for step in steps]
    ys = [window.low_y + step * (window.high_y - window.low_y) for step in steps]
    return Picture(
        lines,
        [(window.at(x, window.low_y)[0], f"{x:.3g}") for x in xs],
        [(window.at(window.low_x, y)[1], f"{y:.3f}") for y in ys],
        window.at(section.cost_of_random, window.low_y)[0],
    )


def _path(row: Row, until: float) -> list[Point]:
    points = [*row.curve, (max(until, row.curve[-1][0]), row.curve[-1][1])]
    if row.mixes:
        return points
    steps = points[:1]
    for cost, quality in points[1:]:
        steps += [(cost, steps[-1][1]), (cost, quality)]
    return steps
