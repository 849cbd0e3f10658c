"""RouterDC: against cross-entropy to the best model and the best single model, on other prompts and a shifted mix.

Six simulated models (`simulated_models.uneven`), 320 prompts of each of six kinds to learn from; on most prompts
several models are right. Cross-entropy: multinomial logistic regression on the same vectors, the label being a right
model drawn at random (prompts that none got right are left out). Shifted: only the two kinds on which the model that is
best overall does worst. Judged is the true quality of choices without a price. "Without the second loss" is the same
router trained by the sample-model loss alone; the published gain in stability is its spread over three trainings.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.simulated_models import KINDS, choices, mean_of, uneven
from roster.lm.encode import TfIdf
from roster.lm.estimate import Contrastive
from roster.lm.records import Records
from roster.lm.routing import Routing
from roster.recipes import find

TRAININGS = 3


def check(seed: int) -> dict[str, float]:
    """Qualities on both mixes of prompts."""
    world = uneven(seed)
    learn = world.learn(320)
    best = int(learn.score_NM.mean(0).argmax())
    worst = np.argsort(world.chance_KM[:, best])[:2]
    ours = find("routerdc").compose().fit(learn)
    alone = [Routing(Contrastive(pull=0.0, seed=n)).fit(learn) for n in range(TRAININGS)]
    both = [Routing(Contrastive(seed=n)).fit(learn) for n in range(TRAININGS)]
    encoder, classifier = _to_the_best(learn, seed)
    figures = {}
    for name, judge in (("same mix", world.judge()), ("shifted", world.judge(tuple(KINDS[k] for k in worst)))):
        figures[f"{name}: RouterDC"] = mean_of(judge.score_NM, choices(ours, judge))
        named_N = classifier.predict(encoder.encode(judge.prompts))
        figures[f"{name}: cross-entropy to the best"] = mean_of(judge.score_NM, named_N)
        figures[f"{name}: best single"] = float(judge.score_NM[:, best].mean())
        for which, routers in (("both losses", both), ("without the second loss", alone)):
            qualities = [mean_of(judge.score_NM, choices(each, judge)) for each in routers]
            figures[f"{name}: spread over trainings, {which}"] = float(np.std(qualities))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds and at most seeds, on both mixes, RouterDC is better than cross-entropy and than the best
    single model."""
    for mix in ("same mix", "shifted"):
        for rival in ("cross-entropy to the best", "best single"):
            gains = [each[f"{mix}: RouterDC"] - each[f"{mix}: {rival}"] for each in figures]
            if np.mean(gains) <= 0 or np.median(gains) <= 0:
                return False
    return True


def _to_the_best(learn: Records, seed: int):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng([seed, 5])
    drawn_NM = learn.score_NM * rng.random(learn.score_NM.shape)
    some_N = learn.score_NM.any(1)
    encoder = TfIdf().fit(learn.prompts)
    x_ND = encoder.encode(learn.prompts)
    return encoder, LogisticRegression(max_iter=500).fit(x_ND[some_N], drawn_NM.argmax(1)[some_N])
