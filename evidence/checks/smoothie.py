"""Smoothie: without labels it recovers how noisy every model is on each kind of prompt, and beats the best one.

Six simulated models (`simulated_models.uneven`), 80 prompts of each of six kinds. As the source assumes, an embedded
answer is the prompt's true one plus independent noise: both are vectors of width 64, drawn from normal distributions,
of squared length 1 and (in the mean) 1 less the model's chance for that kind. No score is read. A choice's quality is
that chance. Correlation: of the recovered with the planted noise over all kinds and models. The best single model is
the one with the highest chance overall, which takes labels to know.

The first version of this check had answers that are right or wrong and compared them as equal or not, with the same
rule, and that did not hold: two models then agree with the product of their chances, which is not what the source
assumes (nor what a check with "known noise" asks for). The figures stand below as "right or wrong" and decide nothing:
a right answer is the prompt's own; a wrong one is drawn from six others of that prompt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import KINDS, World, choices, mean_of, uneven
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing
from roster.recipes import find

WRONG, WIDTH = 6, 64


def check(seed: int) -> dict[str, float]:
    """Correlations, and qualities on other prompts."""
    world = uneven(seed)
    learn, judge = world.learn(80), world.judge()
    z_NMD = _embedded(world, learn, seed)
    near, overall = find("smoothie").compose(), find("smoothie").compose(neighbours=0)
    near.estimator.fit_embedded(_unlabelled(learn), z_NMD)
    overall.estimator.fit_embedded(_unlabelled(learn), z_NMD)
    exact = find("smoothie").compose(answers="exact").fit(_answered(learn, seed))
    return {
        "correlation with the planted noise": _correlation(near, judge, world.chance_KM),
        "quality, Smoothie around each prompt": mean_of(judge.score_NM, choices(near, judge)),
        "quality, Smoothie overall": mean_of(judge.score_NM, choices(overall, judge)),
        "quality, best single": float(judge.score_NM.mean(0).max()),
        "quality, mean model": float(judge.score_NM.mean()),
        "right or wrong: correlation with the true chances": _correlation(exact, judge, world.chance_KM),
        "right or wrong: quality, Smoothie around each prompt": mean_of(judge.score_NM, choices(exact, judge)),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the correlation is above 0.9 and routing around each prompt beats the best single model."""
    return all(
        each["correlation with the planted noise"] > 0.9
        and each["quality, Smoothie around each prompt"] > each["quality, best single"]
        for each in figures
    )


def _correlation(fitted: Routing, judge: Records, chance_KM: Matrix) -> float:
    """Of expected quality, which is a constant less noise, with the chances, which are 1 less the planted noise."""
    quality_NM = fitted.estimator.estimate(judge.prompts).quality_NM
    kind_N = np.array([KINDS.index(name) for name in judge.datasets])
    found_KM = np.array([quality_NM[kind_N == k].mean(0) for k in range(len(KINDS))])
    return float(np.corrcoef(found_KM.ravel(), chance_KM.ravel())[0, 1])


def _embedded(world: World, records: Records, seed: int) -> Matrix:
    rng = np.random.default_rng([seed, 8])
    kind_N = np.array([KINDS.index(name) for name in records.datasets])
    noise_NM = 1 - world.chance_KM[kind_N]
    true_N1D = rng.normal(0, WIDTH**-0.5, (len(records), 1, WIDTH))
    return true_N1D + noise_NM[:, :, None] ** 0.5 * rng.normal(0, WIDTH**-0.5, (*noise_NM.shape, WIDTH))


def _unlabelled(records: Records) -> Records:
    return replace(records, score_NM=np.full(records.score_NM.shape, np.nan))


def _answered(records: Records, seed: int) -> Records:
    wrong_NM = np.random.default_rng([seed, 6]).integers(WRONG, size=records.score_NM.shape)
    answer_NM = np.where(records.score_NM > 0, "right", np.char.add("wrong ", wrong_NM.astype(str))).astype(object)
    return replace(_unlabelled(records), answer_NM=answer_NM)
