"""The report in words: what is saved, what is shown beside the look-up, what is left, and what cannot be said."""

from __future__ import annotations

import math

from roster.lm.results import HELD_OUT, LOOKUP, ORACLE, Report, Row, Section


def verdict(report: Report) -> list[str]:
    """A few sentences per section, the reader's question first: what do I save against the best single model?"""
    sentences = []
    for each in report.sections:
        sentences += _section(each)
    if report.added:
        sentences.append(_added(report))
    return sentences


def _section(section: Section) -> list[str]:
    by_slug = {row.router: row for row in section.rows}
    routers = [row for row in section.rows if row.kind == "router"]
    lookup, oracle = by_slug[LOOKUP], by_slug.get(ORACLE)
    where = section.title[0].upper() + section.title[1:]
    at_cost = f"at the cost of random ({section.cost_of_random:.3g} per call)"
    if routers and section.chosen is None:
        return [
            f"{where}: the log does not carry any of the routers at the cost of random; log more traffic at random."
        ]
    if not routers or section.chosen is None:
        return [
            f"{where}, {at_cost}: no router was asked for; the data-set look-up reaches {lookup.quality.value:.4f}."
        ]
    chosen = by_slug[section.chosen]
    return [
        f"{where}: {_saving(section, chosen)} Chosen on validation prompts, router and settings, and so free of that "
        "choice's luck.",
        f"Beside the look-up by data set, which {_unfair(section)}, {at_cost}: {_beside(chosen)}; "
        f"{chosen.verdict}. The look-up reaches {lookup.quality.value:.4f}.",
        _bound(oracle, chosen),
        *_all(routers),
    ]


def _unfair(section: Section) -> str:
    if section.title.startswith(HELD_OUT):
        return "has never seen this set, so that its label says nothing"
    return "needs a label that live traffic lacks"


def _bound(oracle: Row | None, chosen: Row) -> str:
    """What is left; of a log with gaps, how far it carries the figures."""
    if oracle is not None:
        return (
            f"The per-query oracle, which knows every answer beforehand, reaches {oracle.quality.value:.4f} there: "
            f"{oracle.quality.value - chosen.quality.value:.4f} that no router here has found."
        )
    carried = chosen.carried
    assert carried is not None  # without an oracle, the gaps of a log were filled
    on = carried.support
    return (
        "Not every model's answers are in the log, so qualities and costs are doubly robust estimates, and there is no "
        f"oracle. {chosen.router} rests on an effective sample of {on.effective:.0f} of {on.prompts} prompts; "
        f"{on.overlap:.0%} of its choices are made by the log too, the heaviest weight is {on.heaviest:.1f}. Plain "
        f"IPS says {carried.ips:.4f}, self-normalised {carried.self_normalised:.4f}."
    )


def _saving(section: Section, row: Row) -> str:
    """What the row's cost at equal quality, and its interval, allow to say."""
    if section.cost_of_random == 0:
        over = row.quality.value - section.single_quality
        return (
            f"no call costs anything here, so quality alone is compared: {row.router} reaches {row.quality.value:.4f}, "
            f"{over:+.4f} beside the best single model ({section.single})."
        )
    single = f"the best single model's quality ({section.single}, {section.single_quality:.4f})"
    if math.isinf(row.cost.value):
        return f"no saving is shown: {row.router} does not reach {single} on the test."
    low, high = _end(row.cost.low), _end(row.cost.high)
    spent = f"{row.router} reaches {single} at {row.cost.value:.2f} of its cost [{low}, {high}]"
    if row.cost.value >= 1:
        return f"nothing is saved: {spent}."
    if row.cost.high >= 1:
        doubt = "some resamples do not reach it" if math.isinf(row.cost.high) else "the interval includes no saving"
        return f"a saving of {1 - row.cost.value:.0%} was measured and is not shown: {spent}; {doubt}."
    span = f"[{1 - row.cost.high:.0%}, {1 - row.cost.low:.0%}]"
    return f"{1 - row.cost.value:.0%} saved {span} at equal quality: {spent}."


def _end(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _beside(row: Row) -> str:
    over = row.over_lookup
    return (
        f"{row.router} reaches {row.quality.value:.4f}, {over.value:+.4f} over the look-up "
        f"[{over.low:+.4f}, {over.high:+.4f}]"
    )


def _all(routers: list[Row]) -> list[str]:
    better = [row.router for row in routers if row.over_lookup.low > 0]
    worse = [row.router for row in routers if row.over_lookup.high < 0]
    count = f"the intervals of all {len(routers)} routers hold together at 95 %"
    if better:
        sentences = [f"Better than the data-set look-up: {', '.join(better)}; {count}."]
    else:
        sentences = [f"No router is shown to be better than the data-set look-up here; {count}."]
    if worse:
        sentences.append(f"Worse than the data-set look-up: {', '.join(worse)}.")
    return sentences


def _added(report: Report) -> str:
    most = max(row.probes for row in report.added)
    rows = [row for row in report.added if row.probes == most]
    gained = sum(row.quality > row.quality_without for row in rows)
    return (
        f"A model added from {most} probes raised the quality at the cost of random in {gained} of {len(rows)} cases "
        "(router by model)."
    )
