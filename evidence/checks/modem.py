"""MoDEM: specialists behind a classifier of the domain beat one general model of the same cost.

Simulated: a specialist for each of six kinds of prompts, right with chance 0.8 there and 0.45 elsewhere, and a general
model that is right with chance 0.65 everywhere; all cost the same. 80 prompts of each kind to learn from. How good a
classifier must be for that is arithmetic (57 %); whether it is, with the specialists found from records, is not.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.simulated_models import KINDS, World, choices, mean_of
from roster.recipes import find

OWN, ELSEWHERE, GENERAL = 0.8, 0.45, 0.65


def check(seed: int) -> dict[str, float]:
    """Chances to be right on other prompts."""
    chance_KM = np.full((len(KINDS), len(KINDS) + 1), ELSEWHERE)
    chance_KM[np.arange(len(KINDS)), np.arange(len(KINDS))] = OWN
    chance_KM[:, -1] = GENERAL
    world = World(chance_KM, np.full(len(KINDS) + 1, 0.1), seed)
    judge = world.judge()
    fitted = find("modem").compose().fit(world.learn(80))
    domain_NG = fitted.estimator.domain(fitted.estimator.encoder.encode(judge.prompts))
    named_N = np.array(fitted.estimator.groups)[domain_NG.argmax(1)]
    return {
        "domains": float(len(KINDS)),
        "domain named": float((named_N == np.array(judge.datasets)).mean()),
        "right, MoDEM": mean_of(judge.score_NM, choices(fitted, judge)),
        "right, the general model": GENERAL,
        "right, told the domain": OWN,
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed MoDEM is right more often than the general model, by at least half of what knowing the domain
    would bring."""
    return all(each["right, MoDEM"] >= (GENERAL + OWN) / 2 for each in figures)
