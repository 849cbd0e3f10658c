"""The report's three forms: one table, one JSON, one HTML page with the curves. It computes nothing.

The page needs no network: styles are inside, curves are inline SVG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roster.files import write_whole
from roster.lm.picture import HEIGHT, MARGIN, WIDTH, around_routers, whole
from roster.lm.results import Figure, Report, Row, Section
from roster.reporting import render

CARRIED = ("effective prompts", "overlap", "IPS", "SNIPS", "heaviest weight")
"""What only a log with gaps has."""

if TYPE_CHECKING:
    from rich.table import Table


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
    filled = any(row.carried for row in section.rows)
    for name in (*names, "ECE", "Brier", "AUROC", "ms", "router cost", *(CARRIED if filled else ())):
        made.add_column(name, justify="left" if name == "router" else "right", overflow="fold")
    for row in section.rows:
        label = row.router if row.kind == "router" else f"{row.router} ({row.kind})"
        cells = (
            figure(row.quality),
            number(row.best.value),
            figure(row.over_lookup, "+"),
            number(row.aiq.value),
            figure(row.cost, "", 3),
        )
        estimates = (*map(number, (row.ece, row.brier, row.auroc)), number(row.decision_ms, 2))
        made.add_row(
            label,
            *(each.replace("[", r"\[") for each in cells),
            *estimates,
            share(row.router_cost),
            *(carried(row) if filled else ()),
        )
    made.caption = (
        "quality: of the setting chosen on validation; best on the test: in hindsight, and so optimistic; "
        f"cost: to reach the quality of the best single model ({section.single}, {section.single_quality:.4f}), "
        "relative to it, ∞ where it is not reached; router cost: of a decision, relative to a call"
    )
    return made


def carried(row: Row) -> tuple[str, ...]:
    """How far a log with gaps carries a row, under the heads of `CARRIED`."""
    if row.carried is None:
        return ("–",) * len(CARRIED)
    on = row.carried.support
    figures = (number(row.carried.ips), number(row.carried.self_normalised), number(on.heaviest, 1))
    return (f"{on.effective:.0f} of {on.prompts}", f"{on.overlap:.0%}", *figures)


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


def share(value: float | None) -> str:
    """A share in per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.2g} %"


def page(report: Report) -> str:
    """The HTML page."""
    pictures = [(around_routers(section), whole(section)) for section in report.sections]
    filters: dict[str, Callable[..., Any]] = {"number": number, "figure": figure, "share": share, "carried": carried}
    return render(
        "lm", filters, heads=CARRIED, pictures=pictures, report=report, width=WIDTH, height=HEIGHT, margin=MARGIN
    )


def write_report(report: Report, folder: Path | str) -> list[Path]:
    """`report.json` and `report.html` in a folder."""
    folder = Path(folder)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [
        write_whole(folder / "report.json", data.encode()),
        write_whole(folder / "report.html", page(report).encode()),
    ]
