"""Smoothie: without labels it recovers how good models are in every kind of prompt, and beats the best single model.

Six simulated models (`simulated_models.uneven`), 80 prompts of each of six kinds. A right answer is the prompt's own; a
wrong one is drawn from six others of that prompt, so that wrong answers sometimes agree. Answers are compared as equal
or not; no score is read. Correlation: of the estimated quality with the true chance over all kinds and models. The best
single model is the one with the highest true chance overall, which takes labels to know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roster.arena.checks.simulated_models import KINDS, choices, mean_of, uneven
from roster.lm.records import Records
from roster.recipes import find

WRONG = 6


def check(seed: int) -> dict[str, float]:
    """Correlation, and qualities on other prompts."""
    world = uneven(seed)
    judge = world.judge()
    fitted = find("smoothie").compose(answers="exact").fit(_answered(world.learn(80), seed))
    quality_NM = fitted.estimator.estimate(judge.prompts).quality_NM
    kind_N = np.array([KINDS.index(name) for name in judge.datasets])
    found_KM = np.array([quality_NM[kind_N == k].mean(0) for k in range(len(KINDS))])
    overall = find("smoothie").compose(neighbours=0, answers="exact").fit(_answered(world.learn(80), seed))
    return {
        "correlation with the true chances": float(np.corrcoef(found_KM.ravel(), world.chance_KM.ravel())[0, 1]),
        "quality, Smoothie around each prompt": mean_of(judge.score_NM, choices(fitted, judge)),
        "quality, Smoothie overall": mean_of(judge.score_NM, choices(overall, judge)),
        "quality, best single": float(judge.score_NM.mean(0).max()),
        "quality, mean model": float(judge.score_NM.mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the correlation is above 0.9 and routing around each prompt beats the best single model."""
    return all(
        each["correlation with the true chances"] > 0.9
        and each["quality, Smoothie around each prompt"] > each["quality, best single"]
        for each in figures
    )


def _answered(records: Records, seed: int) -> Records:
    wrong_NM = np.random.default_rng([seed, 6]).integers(WRONG, size=records.score_NM.shape)
    answer_NM = np.where(records.score_NM > 0, "right", np.char.add("wrong ", wrong_NM.astype(str))).astype(object)
    return replace(records, answer_NM=answer_NM, score_NM=np.full(records.score_NM.shape, np.nan))
