"""Composition of Experts: its mapping from categories to models beats every single model at that model's mean cost.

Six simulated models (`simulated_models.uneven`), 320 prompts of each of six kinds to learn from. The cost weight runs
over 61 values from "the best" to "the cheapest". Against a single model stands the setting with the least weight whose
mean cost, known before any answer is, is no more than that model's on the same prompts; none is chosen by its quality.
None costs less than the cheapest model alone, so there they can only be equal.

This is the third version. The first took the setting of best true quality within the cost, and it held. The second
chose the setting on the prompts to learn from and allowed 5 % more cost on the others: quality was as below, but one
mapping of thirty cost 5.5 % more, so it was not shown.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.simulated_models import choices, mean_of, uneven
from roster.lm.decide import Weights
from roster.lm.routing import Routing
from roster.recipes import find

WEIGHTS = (0.0, *np.geomspace(1e-2, 1e3, 60).tolist())


def check(seed: int) -> dict[str, float]:
    """Quality at the mean cost of every single model."""
    world = uneven(seed)
    judge = world.judge()
    fitted = find("composition-of-experts").compose().fit(world.learn(320))
    settings = [choices(Routing(fitted.estimator, Weights(weight)), judge) for weight in WEIGHTS]
    cost_L = np.array([mean_of(judge.cost_NM, chosen_N) for chosen_N in settings])
    figures = {}
    for name, cost, quality in zip(judge.models, judge.cost_NM.mean(0), judge.score_NM.mean(0), strict=True):
        first = int(np.argmax(cost_L <= cost + 1e-9))
        figures[f"{name}: quality"] = float(quality)
        figures[f"{name}: quality of the composition at its cost"] = mean_of(judge.score_NM, settings[first])
        figures[f"{name}: cost of the composition, relative"] = float(cost_L[first] / cost)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the composition, at no more cost, is better than every model but the cheapest, and no worse than
    that."""
    for each in figures:
        singles = [name.removesuffix(": quality") for name in each if name.endswith(": quality")]
        gains = [each[f"{name}: quality of the composition at its cost"] - each[f"{name}: quality"] for name in singles]
        if gains[0] < -1e-9 or min(gains[1:]) <= 0:
            return False
        if max(each[f"{name}: cost of the composition, relative"] for name in singles) > 1 + 1e-6:
            return False
    return True
