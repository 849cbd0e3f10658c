"""Cost-quality curves: what a router gives for every price, and the area under that (AIQ).

Curves are non-decreasing convex hulls, because every deployed router can toss a coin between two of its settings, and
need not spend more for less. AIQ is the area under that hull over a common range of costs, divided by the range
(RouterBench: Hu et al., 2024, arXiv:2403.12031).

Shape legend: L settings of a router's dial, N prompts, P points of a curve, B bootstrap resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.lm.records import Matrix


@dataclass(frozen=True)
class Curve:
    """Corners of a curve, costs rising. A mixing curve is straight between corners, another steps up at them."""

    cost_P: Matrix
    quality_P: Matrix
    mixes: bool = True

    def quality_at(self, cost: Matrix | float) -> Matrix:
        """Quality for a cost; minus infinity below the cheapest corner, constant above the dearest."""
        cost = np.asarray(cost, dtype=float)
        if self.mixes:
            found = np.interp(cost, self.cost_P, self.quality_P)
        else:
            found = self.quality_P[(np.searchsorted(self.cost_P, cost, side="right") - 1).clip(0)]
        return np.where(cost < self.cost_P[0] - 1e-12 * abs(self.cost_P[0]), -np.inf, found)

    def cost_at(self, quality: float) -> float:
        """The least cost that gives a quality; infinite where the curve does not reach it."""
        if quality > self.quality_P[-1] + 1e-12:
            return float("inf")
        at = int(np.searchsorted(self.quality_P, quality - 1e-12))
        if at == 0 or not self.mixes:
            return float(self.cost_P[at])
        (c0, c1), (q0, q1) = self.cost_P[at - 1 : at + 1], self.quality_P[at - 1 : at + 1]
        return float(c0 + (c1 - c0) * (quality - q0) / (q1 - q0))

    def aiq(self, low: float, high: float) -> float:
        """Mean quality over the costs between `low` and `high`; costs below the first corner count as no quality."""
        if high <= low:
            return float(self.quality_at(high))
        edges = np.unique(np.concatenate([[low, high], self.cost_P[(self.cost_P > low) & (self.cost_P < high)]]))
        middle = (edges[1:] + edges[:-1]) / 2  # linear or constant between edges: the midpoint rule is exact
        quality = self.quality_at(middle)
        return float((np.diff(edges) * np.where(np.isfinite(quality), quality, 0)).sum() / (high - low))


def corners(cost_L: Matrix, quality_L: Matrix, mixes: bool = True) -> NDArray[np.int64]:
    """Which settings are worth having, [P], costs and qualities rising.

    They are the corners of the non-decreasing upper hull, or where nothing can be mixed, of the running best. Of
    several settings that did the same the end of the dial is taken if it is one of them, else the middle one: at the
    edge of its run a setting may do something else once the router has learned from more prompts.
    """
    order = np.lexsort((-quality_L, cost_L))
    best = np.maximum.accumulate(quality_L[order])
    rising = order[np.concatenate([[True], quality_L[order][1:] > best[:-1]])]
    if not mixes:
        return _inside(rising, cost_L, quality_L)
    hull: list[int] = []
    for setting in rising.tolist():
        while len(hull) > 1 and _below(cost_L, quality_L, hull[-2], hull[-1], setting):
            hull.pop()
        hull.append(setting)
    return _inside(np.array(hull), cost_L, quality_L)


def _inside(at_P: NDArray[np.int64], cost_L: Matrix, quality_L: Matrix) -> NDArray[np.int64]:
    """For each setting, of those with its cost and its quality the one that is farthest from all others."""
    found: list[int] = []
    last = len(cost_L) - 1
    for at in at_P:
        same = np.flatnonzero((cost_L == cost_L[at]) & (quality_L == quality_L[at]))
        found.append(0 if same[0] == 0 else last if same[-1] == last else int(same[len(same) // 2]))
    return np.array(found)


def curve(cost_L: Matrix, quality_L: Matrix, mixes: bool = True) -> Curve:
    """The curve through a router's settings: the non-decreasing upper hull, or the running best if it cannot mix."""
    at = corners(cost_L, quality_L, mixes)
    return Curve(cost_L[at], quality_L[at], mixes)


def _below(cost_L: Matrix, quality_L: Matrix, a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    run, rise = cost_L[c] - cost_L[a], quality_L[c] - quality_L[a]
    return bool((quality_L[b] - quality_L[a]) * run <= rise * (cost_L[b] - cost_L[a]))


@dataclass(frozen=True)
class Played:
    """What each setting of a router did on each test prompt: its score and its cost, [L, N]."""

    score_LN: Matrix
    cost_LN: Matrix
    mixes: bool = True

    def curve(self, weight_N: Matrix | None = None) -> Curve:
        """The curve on all prompts, or with weights that sum to 1."""
        N = self.score_LN.shape[1]
        weight_N = np.full(N, 1 / N) if weight_N is None else weight_N
        return curve(self.cost_LN @ weight_N, self.score_LN @ weight_N, self.mixes)


def resamples(N: int, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap weights [B, N]: how often each prompt was drawn, divided by N. The same draws pair all routers."""
    return np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), size=count) / N


def interval(value_B: Matrix, level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of a bootstrap, its ends two of the values, rounded outwards.

    Every resample counts. One in which a curve does not reach its target is infinite, and so may be an end: leaving it
    out would judge a router by its lucky draws. Nothing is interpolated, which infinite values do not allow. NaN has no
    place among ordered values and gives a NaN interval.
    """
    if not len(value_B) or np.isnan(value_B).any():
        return (float("nan"), float("nan"))
    ordered_B, last = np.sort(value_B), len(value_B) - 1
    tail = (1 - level) / 2 * last
    # Ends that rounding puts a hair beside a value are that value.
    low, high = math.floor(tail + 1e-9), math.ceil(last - tail - 1e-9)
    return (float(ordered_B[low]), float(ordered_B[high]))
