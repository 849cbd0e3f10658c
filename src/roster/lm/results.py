"""What an evaluation of routers found: plain data, for the table, the JSON and the page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from roster.lm.offpolicy.estimators import Support

LOOKUP, ORACLE, SINGLE, MIX = "lm-dataset-lookup", "lm-oracle", "lm-best-single", "lm-static-mix"
RANDOM, RANDOM_HULL = "lm-random", "lm-random-hull"
YARDSTICKS = (SINGLE, RANDOM, RANDOM_HULL, MIX, LOOKUP)
HELD_OUT = "held out: "
"""How the title of a section begins whose data set nobody learnt from."""


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Carried:
    """How far a log with gaps carries what is said of a router, at the setting that is judged.

    Attributes:
        support: the effective sample, the heaviest weight and the overlap.
        ips, self_normalised: its quality by plainer estimators than the doubly robust one of the report.
        enough: whether that is enough to judge it.
    """

    support: Support
    ips: float
    self_normalised: float
    enough: bool


@dataclass(frozen=True)
class Row:
    """One router in one section.

    Attributes:
        router: its slug.
        kind: "router", "yardstick" or "bound".
        quality: at the cost of random, its setting chosen on validation prompts.
        best: at that cost, of the best setting on the test itself; optimistic, chosen on what it is judged by.
        over_lookup: `quality` less the look-up's, paired; the intervals of all routers of a section hold together.
        aiq: area under its curve (the best settings on the test, so optimistic too) over the range from the cheapest to
            the dearest single model.
        cost: what it takes to reach the quality of the best single model, relative to that model's cost, through the
            settings chosen on validation; infinite
            where its curve does not reach it, and at an end of the interval where too many resamples do not.
        brier, ece, auroc, decision_ms: see `roster.lm.play.Run`.
        router_cost: of one decision relative to a call at the cost of random; None unless costs are in USD.
        curve: corners (cost, quality).
        mixes: whether the curve is straight between its corners; else it steps.
        verdict: in words, beside the look-up.
        carried: how far the log carries this; None where every model's answers are there.
    """

    router: str
    kind: str
    quality: Figure
    best: Figure
    over_lookup: Figure
    aiq: Figure
    cost: Figure
    brier: float | None
    ece: float | None
    auroc: float | None
    decision_ms: float | None
    router_cost: float | None
    curve: list[tuple[float, float]]
    mixes: bool
    verdict: str
    carried: Carried | None = None


@dataclass(frozen=True)
class Section:
    """One test set."""

    title: str
    train_prompts: int
    test_prompts: int
    models: int
    cost_of_random: float
    single: str
    single_quality: float
    single_cost: float
    rows: list[Row]
    chosen: str | None = None


@dataclass(frozen=True)
class AddedRow:
    """A router that was told of a model by k probes.

    Attributes:
        router, model, probes: who, which, how many.
        auroc, brier: of the new model's expected score on the test prompts.
        quality: of the router at the cost of random, the new model among its choices.
        quality_without: the same if the model had not been added.
        quality_retrained: the same if all training answers of the model had been known.
    """

    router: str
    model: str
    probes: int
    auroc: float
    brier: float
    quality: float
    quality_without: float
    quality_retrained: float


@dataclass
class Report:
    """Everything that the table, the JSON and the page show."""

    data: str
    currency: str
    notes: tuple[str, ...]
    sections: list[Section] = field(default_factory=list)
    added: list[AddedRow] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no such numbers: NaN becomes None, the infinities "inf" and "-inf"."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(float(value))
    return value
