"""CARROT's claim: estimating every model's cost and quality chooses better, at every price, than a binary router."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evidence.checks.simulated_models import choices, mean_of
from evidence.grounds.simulated import Scene, scene
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.decide import Weights
from roster.lm.estimate import Mean
from roster.lm.routing import Routing
from roster.recipes import find

WEIGHTS = (0.0, 0.3, 1.0, 3.0)


def _risk(fit: Callable[[Scene], Routing]) -> Contender:
    """Excess risk, the mean over cost weights: what is lost against choosing with the truth."""

    def run(draw: Draw) -> float:
        seen = scene(draw, 320)
        fitted, lost = fit(seen), []
        for weight in WEIGHTS:
            gain_NM = seen.judge.score_NM - weight * seen.judge.cost_NM
            chosen_N = choices(Routing(fitted.estimator, Weights(weight)), seen.judge)
            lost.append(float(gain_NM.max(1).mean()) - mean_of(gain_NM, chosen_N))
        return float(np.mean(lost))

    return run


def _all(seen: Scene) -> Routing:
    return find("carrot-router").compose().fit(seen.learn)


def _binary(seen: Scene) -> Routing:
    return find("carrot-router").compose().fit(seen.learn.only((seen.learn.models[0], seen.learn.models[seen.best])))


def _three(seen: Scene) -> Routing:
    """Not by position: the best two and the cheapest, still one estimate per model."""
    order = np.argsort(-seen.learn.score_NM.mean(0))[:2]
    return find("carrot-router").compose().fit(seen.learn.only(tuple(seen.learn.models[m] for m in {0, *order})))


def _mean(seen: Scene) -> Routing:
    """Every model's mean, whatever the prompt."""
    return Routing(Mean()).fit(seen.learn)


def _told(draw: Draw) -> float:
    """Nothing is lost by the truth, up to a thousandth."""
    return 0.001 * float(np.random.default_rng(draw.luck).random())


CHECKS = (
    make_check(
        slug="carrot-router",
        version=1,
        claim="At every price the excess risk is below that of a router between the cheapest model and the best one.",
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="the same records and vectors for all; cost weights 0, 0.3, 1 and 3, in the mean",
        contenders={
            "CARROT": ("cost and quality of all six, by prompt", _risk(_all)),
            "binary": ("the same among the cheapest and the best model", _risk(_binary)),
            "three": ("the same among the cheapest and the two best", _risk(_three)),
            "mean": ("the same six, each by its mean: nothing is read of the prompt", _risk(_mean)),
            "told": ("control: the truth", _told),
        },
        pairs=Pairs("CARROT", "binary", "mean", "told", "binary"),
        statistic=Statistic("excess risk: weighted cost less quality, above that of the truth", "lower", 0.005),
    ),
)
