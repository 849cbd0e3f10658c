"""The report in words: what can be said, and what cannot."""

from __future__ import annotations

from roster.lm.results import LOOKUP, ORACLE, Report, Row, Section


def verdict(report: Report) -> list[str]:
    """A few sentences per section."""
    sentences = []
    for each in report.sections:
        sentences += _section(each)
    if report.added:
        sentences.append(_added(report))
    return sentences


def _section(section: Section) -> list[str]:
    by_slug = {row.router: row for row in section.rows}
    routers = [row for row in section.rows if row.kind == "router"]
    lookup, oracle = by_slug[LOOKUP], by_slug[ORACLE]
    where = section.title[0].upper() + section.title[1:]
    if not routers:
        return [f"{where}: no router was asked for; the data-set look-up reaches {lookup.quality.value:.4f}."]
    better = [row.router for row in routers if row.over_lookup.low > 0]
    worse = [row.router for row in routers if row.over_lookup.high < 0]
    best = max(routers, key=lambda row: row.quality.value)
    sentences = [
        f"{where}, at the cost of random ({section.cost_of_random:.3g} per call): the look-up by data set reaches "
        f"{lookup.quality.value:.4f}, the per-query oracle {oracle.quality.value:.4f}. The best router on these very "
        f"prompts, {best.router}, reaches {best.quality.value:.4f}, {_difference(best)}."
    ]
    if not better:
        sentences.append(
            f"No router is shown to be better than the data-set look-up here: all {len(routers)} intervals reach down "
            "to no difference or below."
        )
    else:
        sentences.append(
            f"Above the look-up beyond their 95 % intervals: {', '.join(better)}. With {len(routers)} routers "
            "compared, one such interval in forty is expected by chance alone."
        )
    if worse:
        sentences.append(f"Below the look-up beyond their intervals: {', '.join(worse)}.")
    if section.chosen:
        row = by_slug[section.chosen]
        sentences.append(
            f"Chosen on validation prompts, and so free of that choice's luck: {row.router}, {_difference(row)}; "
            f"{row.verdict}."
        )
    return sentences


def _difference(row: Row) -> str:
    over = row.over_lookup
    return f"{over.value:+.4f} over the look-up [{over.low:+.4f}, {over.high:+.4f}]"


def _added(report: Report) -> str:
    most = max(row.probes for row in report.added)
    rows = [row for row in report.added if row.probes == most]
    gained = sum(row.quality > row.quality_without for row in rows)
    return (
        f"A model added from {most} probes raised the quality at the cost of random in {gained} of {len(rows)} cases "
        "(router by model)."
    )
