"""CARROT: on simulated models its excess risk falls with more data at every trade-off, below a binary router's risk.

Six simulated models (`simulated_models.uneven`), 5, 20, 80 and 320 prompts of each of six kinds to learn from. Risk is
cost weight times cost less quality, both as they truly are; excess is what lies above choosing with the truth. The
binary router is the same method among two models only: the cheapest, and the one with the best mean score.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from evidence.checks.simulated_models import choices, mean_of, uneven
from roster.lm.decide import Weights
from roster.lm.routing import Routing
from roster.recipes import find

SIZES, WEIGHTS = (5, 20, 80, 320), (0.0, 0.3, 1.0, 3.0)


def check(seed: int) -> dict[str, float]:
    """Excess risk by cost weight and prompts per kind, and the binary router's with the most prompts."""
    world = uneven(seed)
    judge = world.judge()
    figures = {}
    for size in SIZES:
        learn = world.learn(size)
        fitted = find("carrot-router").compose().fit(learn)
        for weight in WEIGHTS:
            figures[f"weight {weight:g}, {size} per kind: excess risk"] = _excess(fitted, weight, judge)
    best = learn.models[int(learn.score_NM.mean(0).argmax())]
    binary = find("carrot-router").compose().fit(learn.only((learn.models[0], best)))
    for weight in WEIGHTS:
        figures[f"weight {weight:g}, {size} per kind: excess risk, binary router"] = _excess(binary, weight, judge)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds, at every weight the excess risk falls with every step in the number of prompts, and with
    the most is below the binary router's."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    for weight in WEIGHTS:
        path = [mean[f"weight {weight:g}, {size} per kind: excess risk"] for size in SIZES]
        if not all(less > more for less, more in pairwise(path)):
            return False
        if path[-1] >= mean[f"weight {weight:g}, {SIZES[-1]} per kind: excess risk, binary router"]:
            return False
    return True


def _excess(fitted: Routing, weight: float, judge) -> float:
    gain_NM = judge.score_NM - weight * judge.cost_NM
    return float(gain_NM.max(1).mean()) - mean_of(gain_NM, choices(Routing(fitted.estimator, Weights(weight)), judge))
