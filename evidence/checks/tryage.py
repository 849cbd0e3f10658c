"""Tryage: names the best of six models far above chance, and its flag for cost moves along the front in one direction.

Six simulated models (`simulated_models.uneven`), 320 prompts of each of six kinds to learn from. "Best" is the model
with the highest true chance. The same share on recorded answers (LLMRouter, nine models; the chosen model is best when
no other's recorded score is higher) stands beside that of the model that is best most often; it decides nothing, since
most questions have several best models.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from evidence.checks.simulated_models import choices, mean_of, uneven
from roster.lm import data
from roster.lm.decide import Weights
from roster.lm.judging import complete
from roster.lm.routing import Routing
from roster.recipes import find

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


def check(seed: int) -> dict[str, float]:
    """Shares of prompts whose best model was named; loss and cost along the front."""
    world = uneven(seed)
    judge = world.judge()
    fitted = find("tryage").compose().fit(world.learn(320))
    best_N = judge.score_NM.argmax(1)
    figures = {
        "best model named": float((choices(fitted, judge) == best_N).mean()),
        "best model named, always the one": float(np.bincount(best_N).max() / len(best_N)),
        "best model named, by chance": 1 / len(judge.models),
    }
    for weight in WEIGHTS:
        chosen_N = choices(Routing(fitted.estimator, Weights(weight)), judge)
        figures[f"weight {weight:g}: loss"] = 1 - mean_of(judge.score_NM, chosen_N)
        figures[f"weight {weight:g}: cost"] = mean_of(judge.cost_NM, chosen_N)
    return figures | _recorded(seed)


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the best model is named at least twice as often as by chance and more often than any fixed one
    would be; along the weights cost never rises and loss never falls by more than 0.01."""
    for each in figures:
        named = each["best model named"]
        if named < 2 * each["best model named, by chance"] or named <= each["best model named, always the one"]:
            return False
        for low, high in pairwise(WEIGHTS):
            if each[f"weight {high:g}: cost"] > each[f"weight {low:g}: cost"]:
                return False
            if each[f"weight {high:g}: loss"] < each[f"weight {low:g}: loss"] - 0.01:
                return False
    return True


def _recorded(seed: int) -> dict[str, float]:
    records = complete(data.load("llmrouter"))
    order = np.random.default_rng(seed).permutation(len(records))
    learn, judge = (records.rows(part) for part in np.split(order, [round(0.8 * len(records))]))
    fitted = find("tryage").compose().fit(learn)
    is_best_NM = judge.score_NM == judge.score_NM.max(1, keepdims=True)
    return {
        "recorded: a best model named": mean_of(is_best_NM, choices(fitted, judge)),
        "recorded: a best model named, always the one": float(is_best_NM.mean(0).max()),
    }
