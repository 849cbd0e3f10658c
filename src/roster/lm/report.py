"""The report's three forms: one table, one JSON, one HTML page with the curves. It computes nothing.

The page needs no network: styles are inside, curves are inline SVG.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roster.files import write_whole
from roster.lm.results import Figure, Report, Row, Section
from roster.reporting import render

if TYPE_CHECKING:
    from rich.table import Table

WIDTH, HEIGHT, MARGIN = 860, 420, 56
_TICKS = 5


def tables(report: Report) -> list[Table]:
    """One table per section, and one for added models."""
    from rich.table import Table

    made = [_section_table(section, report.currency) for section in report.sections]
    if report.added:
        added = Table(title="models added from k probes", title_justify="left")
        for name in ("router", "model", "k", "AUROC", "Brier", "quality", "without it", "fully trained"):
            added.add_column(name, justify="left" if name in ("router", "model") else "right", overflow="fold")
        for row in report.added:
            cells = (row.auroc, row.brier, row.quality, row.quality_without, row.quality_retrained)
            added.add_row(row.router, row.model, str(row.probes), *map(number, cells))
        made.append(added)
    return made


def _section_table(section: Section, currency: str) -> Table:
    from rich.table import Table

    title = (
        f"{section.title}: {section.test_prompts} test prompts, {section.models} models, "
        f"quality at the cost of random ({section.cost_of_random:.3g} {currency} per call)"
    )
    made = Table(title=title, title_justify="left")
    names = ("router", "quality [95 %]", "best on the test", "over look-up [95 %]", "AIQ", "cost [95 %]")
    for name in (*names, "ECE", "Brier", "AUROC", "ms", "router cost"):
        made.add_column(name, justify="left" if name == "router" else "right", overflow="fold")
    for row in section.rows:
        label = row.router if row.kind == "router" else f"{row.router} ({row.kind})"
        price = "–" if row.router_cost is None else f"{100 * row.router_cost:.2g} %"
        cells = (
            figure(row.quality),
            number(row.best.value),
            figure(row.over_lookup, "+"),
            number(row.aiq.value),
            figure(row.cost, "", 3),
        )
        estimates = (*map(number, (row.ece, row.brier, row.auroc)), number(row.decision_ms, 2))
        made.add_row(label, *(each.replace("[", r"\[") for each in cells), *estimates, price)
    made.caption = (
        "quality: of the setting chosen on validation; best on the test: in hindsight, and so optimistic; "
        f"cost: to reach the quality of the best single model ({section.single}, {section.single_quality:.4f}), "
        "relative to it, ∞ where it is not reached; router cost: of a decision, relative to a call"
    )
    return made


def number(value: float | str | None, digits: int = 4, sign: str = "") -> str:
    """A figure; a dash for none, the sign of infinity for what is not reached. Also as `Report.to_dict` writes it."""
    value = math.nan if value is None else float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{sign}.{digits}f}"


def figure(value: Figure, sign: str = "", digits: int = 4) -> str:
    """A figure with its interval, of which either end may be infinite."""
    if math.isnan(value.value):
        return "–"
    low, high = number(value.low, digits, sign), number(value.high, digits, sign)
    return f"{number(value.value, digits, sign)} [{low}, {high}]"


@dataclass(frozen=True)
class Line:
    """One drawn curve: SVG points, and how it is told apart."""

    router: str
    kind: str
    points: str
    hue: int
    end_x: float
    end_y: float


@dataclass(frozen=True)
class Picture:
    """All curves of a section, with their axes."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def picture(section: Section) -> Picture:
    """Curves in pixels; each runs on, level, to the dearest corner of all."""
    corners = [corner for row in section.rows for corner in row.curve]
    costs, qualities = [c for c, _ in corners], [q for _, q in corners]
    low_x, high_x = min(costs), max(costs)
    low_y, high_y = min(qualities), max(qualities)
    span_x, span_y = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0

    def x(cost: float) -> float:
        return round(MARGIN + (cost - low_x) / span_x * (WIDTH - 2 * MARGIN), 1)

    def y(quality: float) -> float:
        return round(HEIGHT - MARGIN - (quality - low_y) / span_y * (HEIGHT - 2 * MARGIN), 1)

    lines = []
    for index, row in enumerate(section.rows):
        path = [(x(c), y(q)) for c, q in _drawn(row, high_x)]
        points = " ".join(f"{px},{py}" for px, py in path)
        lines.append(Line(row.router, row.kind, points, index * 137 % 360, *path[-1]))
    steps = [i / (_TICKS - 1) for i in range(_TICKS)]
    return Picture(
        lines,
        [(x(low_x + s * span_x), f"{low_x + s * span_x:.3g}") for s in steps],
        [(y(low_y + s * span_y), f"{low_y + s * span_y:.3f}") for s in steps],
    )


def _drawn(row: Row, until: float) -> list[tuple[float, float]]:
    points = [*row.curve, (max(until, row.curve[-1][0]), row.curve[-1][1])]
    if row.mixes:
        return points
    steps = points[:1]
    for cost, quality in points[1:]:
        steps += [(cost, steps[-1][1]), (cost, quality)]
    return steps


def page(report: Report) -> str:
    """The HTML page."""
    shown = {"pictures": [picture(section) for section in report.sections], "report": report}
    filters = {"number": number, "figure": figure}
    return render("lm", filters, **shown, width=WIDTH, height=HEIGHT, margin=MARGIN)


def write_report(report: Report, folder: Path | str) -> list[Path]:
    """`report.json` and `report.html` in a folder."""
    folder = Path(folder)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [
        write_whole(folder / "report.json", data.encode()),
        write_whole(folder / "report.html", page(report).encode()),
    ]
