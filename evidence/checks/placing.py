"""Claims about experts on devices: placements are made from some routes and judged on others; nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from evidence.grounds.routes import GROUND, routes, unpaired
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.offload import Routes
from roster.place.cost import Cost, cost_of
from roster.place.exflow import exflow
from roster.place.machine import Machine
from roster.place.moetuner import moetuner
from roster.place.simple import contiguous, random
from roster.place.traffic import Traffic, traffic_of

MACHINE = Machine(8, 2)
SECONDS, STARTS = 2.0, 4
Change = Callable[[Routes, int], Routes]


def _judged(
    place: Callable[[Traffic, Draw], Any], figure: str, learn: Change | None = None, known: bool = False
) -> Contender:
    """A figure of a placement.

    Args:
        place: from traffic to what `roster.place` finds.
        figure: of `Cost`.
        learn: what becomes of the routes that it is made from.
        known: it is made from the routes that judge it.
    """

    def run(draw: Draw) -> float:
        learned, judged = routes(draw)
        made_from = judged if known else learned
        if learn is not None:
            made_from = learn(made_from, draw.luck)
        placement = place(traffic_of(made_from), draw).placement
        return float(getattr(cost_of(placement, traffic_of(judged)), figure))

    return run


def _exflow(traffic: Traffic, draw: Draw) -> Any:
    return exflow(traffic, MACHINE, seconds=SECONDS, starts=STARTS, seed=draw.luck)


def _moetuner(traffic: Traffic, draw: Draw) -> Any:
    return moetuner(traffic, MACHINE, seconds=SECONDS, starts=STARTS, seed=draw.luck)


def _contiguous(traffic: Traffic, _draw: Draw) -> Any:
    return contiguous(traffic, MACHINE)


def _at_random(figure: str) -> Contender:
    """The mean of twenty random placements."""

    def run(draw: Draw) -> float:
        traffic = traffic_of(routes(draw)[1])
        costs: list[Cost] = [
            cost_of(random(traffic, MACHINE, 100 * draw.luck + each).placement, traffic) for each in range(20)
        ]
        return float(np.mean([getattr(cost, figure) for cost in costs]))

    return run


def _over_random(run: Contender) -> Contender:
    random_ones = _at_random("exchange")
    return lambda draw: run(draw) / random_ones(draw)


def _better_of(*contenders: Contender) -> Contender:
    return lambda draw: min(run(draw) for run in contenders)


def _popular_anywhere(found: Routes, luck: int) -> Routes:
    """Experts under other names, layer by layer: how uneven the use is stays, whose it is does not."""
    dice = np.random.default_rng(luck)
    chosen = found.chosen_NLK.copy()
    for layer, count in enumerate(found.geometry.experts):
        chosen[:, layer] = dice.permutation(count).astype(chosen.dtype)[chosen[:, layer]]
    return replace(found, chosen_NLK=chosen)


def _claim(
    name: tuple[str, str],
    claim: str,
    what: str,
    effect: float,
    contenders: dict[str, tuple[str, Contender]],
    pairs: Pairs,
) -> Check:
    return make_check(
        slug=name[0],
        part=name[1],
        version=1,
        claim=claim,
        ground=GROUND,
        budget="equal: 8 devices on 2 nodes, 2 experts of each layer on a device; 2 seconds of search",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic(what, "lower", effect),
    )


CHECKS = (
    _claim(
        ("exflow", ""),
        "On routes set apart, placing experts by affinity makes fewer tokens change the device than contiguous and "
        "random placements.",
        "share of steps from layer to layer that change the device",
        0.02,
        {
            "ExFlow": ("experts that follow one another on one device", _judged(_exflow, "crossings")),
            "contiguous or random": (
                "the better of the contiguous one and the mean of twenty random ones",
                _better_of(_judged(_contiguous, "crossings"), _at_random("crossings")),
            ),
            "unpaired": (
                "ExFlow from routes whose layers were shuffled apart",
                _judged(_exflow, "crossings", unpaired),
            ),
            "known": ("control: ExFlow from the routes that judge it", _judged(_exflow, "crossings", known=True)),
        },
        Pairs("ExFlow", "contiguous or random", "unpaired", "known", "contiguous or random"),
    ),
    _claim(
        ("moetuner", "busiest"),
        "On routes set apart, the busiest device is less busy than in a contiguous placement.",
        "load of the busiest device over the mean",
        0.05,
        {
            "MoETuner": ("loads made even", _judged(_moetuner, "busiest")),
            "contiguous": ("experts in their order", _judged(_contiguous, "busiest")),
            "renamed": (
                "MoETuner from routes whose experts were renamed",
                _judged(_moetuner, "busiest", _popular_anywhere),
            ),
            "known": ("control: from the routes that judge it", _judged(_moetuner, "busiest", known=True)),
        },
        Pairs("MoETuner", "contiguous", "renamed", "known", "contiguous"),
    ),
    _claim(
        ("moetuner", "exchange"),
        "On routes set apart, the busiest pairs of devices carry less than in random placements.",
        "time of all exchanges, each as long as its busiest pair, over the mean of twenty random placements",
        0.05,
        {
            "MoETuner": (
                "loads made even, then the busiest pair relieved",
                _over_random(_judged(_moetuner, "exchange")),
            ),
            "random": ("the mean of twenty random placements", _over_random(_at_random("exchange"))),
            "unpaired": (
                "from routes whose layers were shuffled apart",
                _over_random(_judged(_moetuner, "exchange", unpaired)),
            ),
            "known": (
                "control: from the routes that judge it",
                _over_random(_judged(_moetuner, "exchange", known=True)),
            ),
        },
        Pairs("MoETuner", "random", "unpaired", "known", "random"),
    ),
)
