"""Composition of Experts' claim: categories mapped to models beat any single model at that model's mean cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import choices, mean_of
from evidence.grounds.simulated import Scene, scene
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.decide import Weights
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing
from roster.recipes import find

WEIGHTS = (0.0, *np.geomspace(1e-2, 1e3, 60).tolist())


def _mapped(learn: Callable[[Scene, Draw], Records]) -> Contender:
    """Mean over all models but the cheapest: the best setting that costs no more than the model on the same prompts."""

    def run(draw: Draw) -> float:
        seen = scene(draw, 320)
        fitted = find("composition-of-experts").compose().fit(learn(seen, draw))
        settings = [choices(Routing(fitted.estimator, Weights(weight)), seen.judge) for weight in WEIGHTS]
        cost_L = np.array([mean_of(seen.judge.cost_NM, chosen_N) for chosen_N in settings])
        costs: Matrix = seen.judge.cost_NM.mean(0)[1:]
        first = [int(np.argmax(cost_L <= cost + 1e-9)) for cost in costs]
        return float(np.mean([mean_of(seen.judge.score_NM, settings[at]) for at in first]))

    return run


def _shuffled(seen: Scene, draw: Draw) -> Records:
    names = np.random.default_rng(draw.luck).permutation(np.array(seen.learn.datasets))
    return replace(seen.learn, datasets=tuple(names.tolist()))


def _singles(draw: Draw) -> float:
    return float(scene(draw, 320).judge.score_NM.mean(0)[1:].mean())


def _told(draw: Draw) -> float:
    """The best model of each prompt by its true chances, whatever it costs."""
    return float(scene(draw, 320).judge.score_NM.max(1).mean())


CHECKS = (
    make_check(
        slug="composition-of-experts",
        version=1,
        claim="A mapping from categories to models beats each single model at that model's mean cost.",
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="for each of the five dearer models, the setting that costs no more than it; known before any answer is",
        contenders={
            "composition": ("categories from the records", _mapped(lambda seen, _draw: seen.learn)),
            "singles": ("the models themselves, in the mean", _singles),
            "shuffled": ("the same with categories that are none", _mapped(_shuffled)),
            "told": ("control: the best model of each prompt", _told),
        },
        pairs=Pairs("composition", "singles", "shuffled", "told", "singles"),
        statistic=Statistic("true chance to be right, in the mean over the five costs", "higher", 0.02),
    ),
)
