"""RouterDC's claim: two contrastive losses make a better router than learning to name the best model.

The baseline reads the same vectors: multinomial logistic regression on a right model drawn at random per prompt, which
is what a router trained by cross-entropy to the best model sees.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from evidence.checks.simulated_models import choices
from evidence.grounds.simulated import Scene, best_single, quality, truth
from evidence.protocol.check import Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.encode import TfIdf
from roster.lm.estimate import Contrastive
from roster.lm.records import Matrix
from roster.lm.routing import Routing


def _contrastive(seen: Scene, draw: Draw) -> Matrix:
    return choices(Routing(Contrastive(seed=draw.luck)).fit(seen.learn), seen.judge)


def _one_loss(seen: Scene, draw: Draw) -> Matrix:
    return choices(Routing(Contrastive(pull=0.0, seed=draw.luck)).fit(seen.learn), seen.judge)


def _to_the_best(seen: Scene, draw: Draw) -> Matrix:
    learn = seen.learn
    drawn_NM = learn.score_NM * np.random.default_rng([draw.luck, 5]).random(learn.score_NM.shape)
    some_N = learn.score_NM.any(1)
    encoder = TfIdf().fit(learn.prompts)
    named = LogisticRegression(max_iter=500).fit(encoder.encode(learn.prompts)[some_N], drawn_NM.argmax(1)[some_N])
    return named.predict(encoder.encode(seen.judge.prompts))


CHECKS = (
    make_check(
        slug="routerdc",
        version=1,
        claim="Trained by two contrastive losses, a router chooses better models than one trained to name the best.",
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="the same vectors of the prompts for all; no price",
        contenders={
            "RouterDC": ("both contrastive losses", quality(_contrastive)),
            "one loss": ("without the loss between prompts", quality(_one_loss)),
            "to the best": ("logistic regression on the best model", quality(_to_the_best)),
            "best single": ("the best model of the records for all", quality(best_single)),
            "truth": ("control: the model with the highest true chance", quality(truth)),
        },
        pairs=Pairs("RouterDC", "to the best", "one loss", "truth", "best single"),
        statistic=Statistic("true chance that the chosen model is right", "higher", 0.005),
    ),
)
