"""The report on routers: always beside best single, random, static mix, data-set look-up and per-query oracle.

Three questions, a section each: prompts like those of training; a data set that training did not have; a model of
which only k probe answers are known. How they are shown is `roster.lm.report`.

The cost of random is the mean cost of a model drawn uniformly. Curves are compared at that cost; the same bootstrap
draws of the test prompts serve all routers, so that differences are paired.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from roster.errors import RosterError
from roster.lm.calibration import auroc, brier
from roster.lm.curve import Curve, interval, resamples
from roster.lm.play import Run, best_single, complete, ordered, play, play_oracle, play_random, play_random_hull
from roster.lm.records import Matrix, Records
from roster.lm.results import (
    LOOKUP,
    MIX,
    ORACLE,
    RANDOM,
    RANDOM_HULL,
    SINGLE,
    YARDSTICKS,
    AddedRow,
    Figure,
    Report,
    Row,
    Section,
)
from roster.lm.routing import Routing
from roster.lm.splits import carve_validation, hold_out
from roster.lm.verdict import verdict

CORE_HOUR_USD = 0.04
"""Assumed price of one core for an hour, for the cost of deciding."""

Make = Callable[[], Routing]


def evaluate(
    records: Records,
    routers: Mapping[str, Make],
    *,
    held_out: Sequence[str] = (),
    added: Sequence[str] = (),
    probes: Sequence[int] = (10, 20, 50),
    in_distribution: bool = True,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Measures routers on recorded answers.

    Args:
        records: with a test split; validation prompts serve to choose among the routers.
        routers: how to make each one, unfitted, by slug; the yardsticks are added if they are not among them.
        held_out: data sets that take a section each.
        added: models that take a turn at being added from probes.
        probes: k.
        in_distribution: whether to have the first section.
        draws: bootstrap resamples.
        seed: of everything random.
        progress: told what happens.

    Raises:
        RosterError: there is no test split, no cost, or an unknown data set or model.
    """
    routers = with_yardsticks(routers)
    records = carve_validation(records, seed=seed)
    learn, test = training(records), complete(records.split("test")) if "test" in records.splits else None
    if test is None:
        raise RosterError(f"records {records.name!r} have no test split to judge routers on")
    report = Report(records.name, records.currency, test.notes, settings={"draws": draws, "seed": seed})
    if in_distribution:
        progress("choosing on validation")
        trained = {slug: make().fit(records.split("train")) for slug, make in routers.items()}
        choice = _best(trained, complete(records.split("validation")))
        progress("in distribution")
        fitted = {slug: make().fit(learn) for slug, make in routers.items()}
        report.sections.append(section("in distribution", fitted, learn, test, draws, seed, choice))
    for dataset in held_out:
        progress(f"held out: {dataset}")
        apart = hold_out(records, dataset)
        others, rest = apart.split("train"), complete(apart.split("test"))
        elsewhere = {slug: make().fit(others) for slug, make in routers.items()}
        report.sections.append(section(f"held out: {dataset}", elsewhere, others, rest, draws, seed))
    for model in added:
        progress(f"added: {model}")
        report.added += add_section(routers, learn, test, model, probes, seed)
    report.verdict = verdict(report)
    return report


def with_yardsticks(routers: Mapping[str, Make]) -> dict[str, Make]:
    """The routers, with the fitted yardsticks among them."""
    from roster.recipes import RECIPES

    return {**{slug: RECIPES[slug] for slug in (SINGLE, MIX, LOOKUP)}, **routers}


def training(records: Records) -> Records:
    """Training and validation prompts."""
    return records.rows(np.array([split != "test" for split in records.splits]))


def kind_of(slug: str) -> str:
    """What a row is to be read as."""
    if slug == ORACLE:
        return "bound"
    return "yardstick" if slug in YARDSTICKS else "router"


def _best(trained: Mapping[str, Routing], validation: Records) -> str | None:
    """The router that is best on validation prompts at the cost of random."""
    budget = float(validation.cost_NM.mean())
    candidates = {slug: each for slug, each in trained.items() if kind_of(slug) == "router"}
    quality = {
        slug: float(play(each, validation, timed=False).played.curve().quality_at(budget))
        for slug, each in candidates.items()
    }
    return max(quality, key=quality.__getitem__) if quality else None


def section(
    title: str,
    fitted: Mapping[str, Routing],
    train: Records,
    test: Records,
    draws: int,
    seed: int,
    chosen: str | None = None,
) -> Section:
    """All routers on one test set, with intervals from the same bootstrap draws."""
    runs = {RANDOM: play_random(test), RANDOM_HULL: play_random_hull(test), ORACLE: play_oracle(test)}
    runs |= {slug: play(routing, test) for slug, routing in fitted.items()}
    weight_BN = np.vstack([np.full(len(test), 1 / len(test)), resamples(len(test), draws, seed)])
    curves = {slug: [run.played.curve(weight_N) for weight_N in weight_BN] for slug, run in runs.items()}
    single, quality, cost = best_single(train, test)
    ruler = _Ruler(test, weight_BN, test.column(single), curves[LOOKUP])
    order = [s for s in (*YARDSTICKS, *fitted, ORACLE) if s in runs]
    return Section(
        title=title,
        train_prompts=len(train),
        test_prompts=len(test),
        models=len(test.models),
        cost_of_random=float(test.cost_NM.mean()),
        single=single,
        single_quality=quality,
        single_cost=cost,
        rows=[ruler.row(slug, runs[slug], curves[slug], test) for slug in dict.fromkeys(order)],
        chosen=chosen,
    )


class _Ruler:
    """What is the same for all rows of a section; index 0 of every bootstrap axis is the data as they are."""

    def __init__(self, test: Records, weight_BN: Matrix, single: int, lookup: Sequence[Curve]):
        self.budget_B = weight_BN @ test.cost_NM.mean(1)
        cost_BM = weight_BN @ test.cost_NM
        self.range_B2 = np.stack([cost_BM.min(1), cost_BM.max(1)], axis=1)
        self.single_quality_B = weight_BN @ test.score_NM[:, single]
        self.single_cost_B = cost_BM[:, single]
        self.lookup_B = self.quality(lookup)

    def quality(self, curves: Sequence[Curve]) -> Matrix:
        return np.array([float(c.quality_at(budget)) for c, budget in zip(curves, self.budget_B, strict=True)])

    def row(self, slug: str, run: Run, curves: Sequence[Curve], test: Records) -> Row:
        quality_B = self.quality(curves)
        aiq_B = np.array([c.aiq(*span) for c, span in zip(curves, self.range_B2, strict=True)])
        reach_B = np.array([c.cost_at(q) for c, q in zip(curves, self.single_quality_B, strict=True)])
        over = _figure(less(quality_B, self.lookup_B))
        takes_usd = test.currency == "USD" and run.decision_ms is not None
        price = run.decision_ms / 3.6e6 * CORE_HOUR_USD / self.budget_B[0] if takes_usd else None
        return Row(
            router=slug,
            kind=kind_of(slug),
            quality=_figure(quality_B),
            over_lookup=over,
            aiq=_figure(aiq_B),
            cost=_figure(relative(reach_B, self.single_cost_B)),
            brier=run.brier,
            ece=run.ece,
            auroc=run.auroc,
            decision_ms=run.decision_ms,
            router_cost=price,
            curve=list(zip(curves[0].cost_P.tolist(), curves[0].quality_P.tolist(), strict=True)),
            mixes=curves[0].mixes,
            verdict=beside_lookup(slug, over),
        )


def less(quality_B: Matrix, other_B: Matrix) -> Matrix:
    """A difference of qualities; none where neither can be had for the money."""
    neither_B = np.isneginf(quality_B) & np.isneginf(other_B)
    return np.where(neither_B, 0.0, quality_B - np.where(neither_B, 0.0, other_B))


def relative(cost_B: Matrix, single_B: Matrix) -> Matrix:
    """Costs relative to the single model's; beside one that costs nothing, 1 for what is free too, else infinite."""
    free_B = single_B <= 0
    beside_free_B = np.where(cost_B > 0, np.inf, 1.0)
    return np.where(free_B, beside_free_B, cost_B / np.where(free_B, 1.0, single_B))


def beside_lookup(slug: str, over: Figure) -> str:
    """In words, what the interval allows to say."""
    if slug == LOOKUP:
        return "the look-up itself"
    if over.low > 0:
        return "better than the data-set look-up"
    if over.high < 0:
        return "worse than the data-set look-up"
    return "not better than the data-set look-up: the interval includes no difference"


def _figure(value_B: Matrix) -> Figure:
    return Figure(float(value_B[0]), *interval(value_B[1:]))


def add_section(
    routers: Mapping[str, Make], learn: Records, test: Records, model: str, probes: Sequence[int], seed: int
) -> list[AddedRow]:
    """A model unknown in training, added from k of its answers to training prompts."""
    learn.column(model)
    others = learn.only([name for name in learn.models if name != model])
    budget = float(test.cost_NM.mean())
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(learn.score_NM[:, learn.column(model)])))
    rows = []
    for slug, make in routers.items():
        if kind_of(slug) != "router":
            continue
        before, full = make().fit(others), make().fit(learn)
        known = complete(test.only(others.models))
        without, retrained = (
            float(play(routing, part, timed=False).played.curve().quality_at(budget))
            for routing, part in ((before, known), (full, test))
        )
        for k in probes:
            routing = copy.deepcopy(before)
            routing.estimator.add_model(model, learn.rows(drawn[:k]))
            expected_N = _column(routing, test, model)
            truth_N = test.score_NM[:, test.column(model)]
            quality = float(play(routing, test, timed=False).played.curve().quality_at(budget))
            measured = (auroc(expected_N, truth_N), brier(expected_N, truth_N), quality, without, retrained)
            rows.append(AddedRow(slug, model, int(k), *measured))
    return rows


def _column(routing: Routing, test: Records, model: str) -> Matrix:
    estimates = ordered(routing.estimator.estimate(test.prompts, test.datasets), test.models)
    return estimates.quality_NM[:, test.column(model)]
