"""One test set, all routers on it: chosen on validation prompts, read at one cost, with intervals from the same draws.

A setting is never chosen on the prompts that it is judged on: corners come from validation, and the share of a mix from
the costs of the test. What the best setting would have given on the test itself stands beside it, as optimistic.

Shape legend: L settings, P corners, N prompts, B weightings of them (all alike, then the resamples), R routers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from roster.lm.carrying import carried_at
from roster.lm.curve import Curve, Played, corners, interval, resamples
from roster.lm.decide import Rule
from roster.lm.dial import Setting, cost_to_reach, within
from roster.lm.offpolicy.counterfactual import Counterfactual
from roster.lm.play import Run, best_single, dial, play, play_oracle, play_random, play_random_hull
from roster.lm.records import Matrix, Records
from roster.lm.results import LOOKUP, ORACLE, RANDOM, RANDOM_HULL, YARDSTICKS, Carried, Figure, Row, Section
from roster.lm.routing import Routing

CORE_HOUR_USD = 0.04
"""Assumed price of one core for an hour, for the cost of deciding."""


@dataclass(frozen=True)
class Way:
    """What validation says of a router: its settings, which of them are worth having, its quality at random's cost."""

    rules: Sequence[Rule] | None
    corner_P: NDArray[np.int64]
    quality: float


def find_way(played: Played, budget: float, rules: Sequence[Rule] | None = None) -> Way:
    """From what every setting did on validation prompts."""
    corner_P = corners(played.cost_LN.mean(1), played.score_LN.mean(1), played.mixes)
    return Way(rules, corner_P, float(played.curve().quality_at(budget)))


def explore(routing: Routing, validation: Records) -> Way:
    """The way of a router that was fitted on training prompts only."""
    rules = dial(routing, validation)
    played = play(routing, validation, timed=False, rules=rules).played
    return find_way(played, float(validation.cost_NM.mean()), rules)


def section(
    title: str,
    ways: Mapping[str, Way],
    fitted: Mapping[str, Routing],
    parts: tuple[Records, ...],
    draws: int,
    seed: int,
) -> Section:
    """All routers on one test set.

    Args:
        title: of the section.
        ways: found on validation prompts by `explore`.
        fitted: the same routers, fitted on training and validation prompts.
        parts: the records of training with validation, of validation, and of the test; the last two `complete`.
        draws, seed: of the bootstrap.
    """
    learn, validation, test = parts
    filled = isinstance(test, Counterfactual)
    budget = float(test.cost_NM.mean())
    ways = {
        RANDOM: find_way(play_random(validation).played, budget),
        RANDOM_HULL: find_way(play_random_hull(validation).played, budget),
        **ways,
    }
    runs = {RANDOM: play_random(test), RANDOM_HULL: play_random_hull(test)}
    runs |= {slug: play(routing, test, rules=ways[slug].rules) for slug, routing in fitted.items()}
    if not filled:  # a bound knows the test; the best of several estimates is no bound
        runs[ORACLE] = play_oracle(test)
        ways[ORACLE] = find_way(runs[ORACLE].played, budget)
    weight_BN = np.vstack([np.full(len(test), 1 / len(test)), resamples(len(test), draws, seed)])
    # The mean score of what a log happened to ask of each model does not compare models.
    single, quality, cost = best_single(validation if filled else learn, test)
    ruler = Ruler(test, weight_BN, test.column(single))
    order = [slug for slug in dict.fromkeys((*YARDSTICKS, *fitted, ORACLE)) if slug in runs]
    settings = {slug: setting_at(runs[slug].played, ways[slug].corner_P, budget) for slug in order}
    players = {slug: _player(slug, fitted, ways) for slug in order if slug != ORACLE}
    carried = carried_at(settings, players, test)
    quality_SB = {slug: quality_of(runs[slug].played, settings[slug], weight_BN) for slug in order}
    for slug, each in carried.items():
        if not each.enough:
            quality_SB[slug] = np.full(len(weight_BN), np.nan)
    over = over_lookup(quality_SB)
    routers = [slug for slug in fitted if kind_of(slug) == "router" and not np.isnan(quality_SB[slug][0])]
    rows = [
        ruler.row(slug, runs[slug], ways[slug].corner_P, quality_SB[slug], over[slug], carried.get(slug))
        for slug in order
    ]
    return Section(
        title=title,
        train_prompts=len(learn),
        test_prompts=len(test),
        models=len(test.models),
        cost_of_random=budget,
        single=single,
        single_quality=quality,
        single_cost=cost,
        rows=rows,
        chosen=max(routers, key=lambda slug: ways[slug].quality) if routers else None,
    )


def _player(slug: str, fitted: Mapping[str, Routing], ways: Mapping[str, Way]) -> Callable[[Records], Run]:
    plain = {RANDOM: play_random, RANDOM_HULL: play_random_hull}
    return plain.get(slug) or partial(play, fitted[slug], timed=False, rules=ways[slug].rules)


def kind_of(slug: str) -> str:
    """What a row is to be read as."""
    if slug == ORACLE:
        return "bound"
    return "yardstick" if slug in YARDSTICKS else "router"


def setting_at(played: Played, corner_P: NDArray[np.int64], budget: float) -> Setting | None:
    """What validation chose, held to a cost on all prompts alike; None where it cannot be had for that."""
    return within(corner_P, played.cost_LN.mean(1), budget, played.mixes)


def quality_of(played: Played, setting: Setting | None, weight_BN: Matrix) -> Matrix:
    """Quality of a setting in every resample, [B]."""
    if setting is None:
        return np.full(len(weight_BN), -np.inf)
    return np.asarray(weight_BN @ setting.of(played.score_LN))


def over_lookup(quality_SB: Mapping[str, Matrix]) -> dict[str, Figure]:
    """Every row's difference from the look-up, paired; the routers' intervals hold together, the others' one by one."""
    over_SB = {slug: less(quality_B, quality_SB[LOOKUP]) for slug, quality_B in quality_SB.items()}
    routers = [slug for slug in over_SB if kind_of(slug) == "router"]
    found = {slug: figure_of(over_B) for slug, over_B in over_SB.items()}
    return found | dict(zip(routers, together([over_SB[slug] for slug in routers]), strict=True))


def together(value_RB: Sequence[Matrix], level: float = 0.95) -> list[Figure]:
    """Intervals that hold all at once: by the bootstrap's largest deviation in units of its standard deviation.

    With R routers compared, one of R separate intervals misses far more often than its level says; here the chance that
    any misses is 1 - level. That heeds how alike the routers are, unlike a division of the level by R.

    Source: Romano, Wolf, 2005, "Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing", JASA 100
    (its single step).
    """
    spread_R = [float(value_B[1:].std()) if np.isfinite(value_B).all() else 0.0 for value_B in value_RB]
    moving = [(b, s) for b, s in zip(value_RB, spread_R, strict=True) if s > 0]
    if not moving:
        return [figure_of(value_B) for value_B in value_RB]
    most_B = np.sort(np.max([np.abs(value_B[1:] - value_B[0]) / spread for value_B, spread in moving], axis=0))
    factor = float(most_B[math.ceil(level * (len(most_B) - 1) - 1e-9)])
    return [
        Figure(float(b[0]), float(b[0] - factor * s), float(b[0] + factor * s)) if s > 0 else figure_of(b)
        for b, s in zip(value_RB, spread_R, strict=True)
    ]


class Ruler:
    """What is the same for all rows of a section; index 0 of every bootstrap axis is the data as they are."""

    def __init__(self, test: Records, weight_BN: Matrix, single: int):
        self.currency, self.weight_BN = test.currency, weight_BN
        self.budget_B = weight_BN @ test.cost_NM.mean(1)
        cost_BM = weight_BN @ test.cost_NM
        self.range_B2 = np.stack([cost_BM.min(1), cost_BM.max(1)], axis=1)
        self.single_quality_B = weight_BN @ test.score_NM[:, single]
        self.single_cost_B = cost_BM[:, single]

    def row(
        self,
        slug: str,
        run: Run,
        corner_P: NDArray[np.int64],
        quality_B: Matrix,
        over: Figure,
        carried: Carried | None = None,
    ) -> Row:
        """One router's row, from its quality at the cost of random and its difference from the look-up's."""
        played = run.played
        curves = [played.curve(weight_N) for weight_N in self.weight_BN]
        best_B = np.array([float(c.quality_at(b)) for c, b in zip(curves, self.budget_B, strict=True)])
        aiq_B = np.array([c.aiq(*span) for c, span in zip(curves, self.range_B2, strict=True)])
        cost_BP, quality_BP = (self.weight_BN @ each[corner_P].T for each in (played.cost_LN, played.score_LN))
        if carried is not None and not carried.enough:
            quality_BP = np.full_like(quality_BP, np.nan)
        reach_B = cost_to_reach(cost_BP, quality_BP, self.single_quality_B, played.mixes)
        return Row(
            router=slug,
            kind=kind_of(slug),
            quality=figure_of(quality_B),
            best=figure_of(best_B),
            over_lookup=over,
            aiq=figure_of(aiq_B),
            cost=figure_of(relative(reach_B, self.single_cost_B)),
            brier=run.brier,
            ece=run.ece,
            auroc=run.auroc,
            decision_ms=run.decision_ms,
            router_cost=self._price(run.decision_ms),
            curve=_points(curves[0]),
            mixes=curves[0].mixes,
            verdict=beside_lookup(slug, over),
            carried=carried,
        )

    def _price(self, decision_ms: float | None) -> float | None:
        if self.currency != "USD" or decision_ms is None or self.budget_B[0] == 0:
            return None
        return float(decision_ms / 3.6e6 * CORE_HOUR_USD / self.budget_B[0])


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.cost_P.tolist(), curve.quality_P.tolist(), strict=True))


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
    if math.isnan(over.value):
        return "not comparable: the log does not carry this router or the look-up at this cost"
    if over.low > 0:
        return "better than the data-set look-up"
    if over.high < 0:
        return "worse than the data-set look-up"
    return "not better than the data-set look-up: the interval includes no difference"


def figure_of(value_B: Matrix) -> Figure:
    """The data's value with its interval from the resamples."""
    return Figure(float(value_B[0]), *interval(value_B[1:]))
