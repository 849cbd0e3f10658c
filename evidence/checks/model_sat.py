"""Model-SAT's claim: a model that was never trained on is routed from its aptitude scores as if it had been.

Six simulated models (`simulated_models.uneven`), 320 prompts of each of six kinds to learn from. The best model of the
records is left out of training and then added by its scores on 1,000 of the training prompts (the source's test has 50
tasks of 20 shots). Judged is the true quality of choices without a price. Beside it: the model left out for good, and
added by scores that belong to other prompts, so that only its mean is known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import choices, mean_of
from evidence.grounds.simulated import scene
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.recipes import find

PROBES = 1_000


def _quality(way: str) -> Contender:
    def run(draw: Draw) -> float:
        seen = scene(draw, 320)
        learn, judge = seen.learn, seen.judge
        if way == "known":
            return mean_of(judge.score_NM, choices(find("model-sat").compose().fit(learn), judge))
        name = learn.models[seen.best]
        fitted = find("model-sat").compose().fit(learn.only(tuple(each for each in learn.models if each != name)))
        if way != "left out":
            order_N = np.random.default_rng([draw.luck, 4]).permutation(len(learn))[:PROBES]
            probes = learn.rows(order_N)
            if way == "blind":
                prompts = np.random.default_rng([draw.luck, 6]).permutation(np.array(probes.prompts, dtype=object))
                probes = replace(probes, prompts=tuple(prompts.tolist()))
            fitted.estimator.add_model(name, probes)
        columns = [judge.column(each) for each in fitted.estimator.models]
        chosen_N = fitted.rule.choose(fitted.estimator.estimate(judge.prompts))
        return mean_of(judge.score_NM, np.array(columns)[chosen_N])

    return run


def _careless(draw: Draw) -> float:
    judge = scene(draw, 320).judge
    known = _quality("known")(draw)
    return known - 0.1 * (known - float(judge.score_NM.mean()))


CHECKS = (
    make_check(
        slug="model-sat",
        version=2,
        claim="A model that is added by its aptitude scores alone is routed as well as one that was trained on.",
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="the model left out is the best of the records; added by 1,000 scores where training has 1,920",
        contenders={
            "added": ("the best model added by 1,000 scores after training", _quality("added")),
            "known": ("all six models in training", _quality("known")),
            "blind": ("added by scores that belong to other prompts", _quality("blind")),
            "left out": ("the best model is not there", _quality("left out")),
            "careless": ("control, a handicap: all known, a random model for a tenth of the prompts", _careless),
        },
        pairs=Pairs("added", "known", "blind", "careless", "known"),
        statistic=Statistic("true chance that the chosen model is right", "higher", 0.01, "no worse"),
    ),
)
