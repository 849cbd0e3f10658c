"""Smoothie's claim: without labels it finds models that beat the best single one, which takes labels to know.

As the source assumes, an embedded answer is the prompt's true one plus independent noise; how much a model has is one
less its chance on that kind of prompt.

Shape legend: N prompts, M models, D width of the embedding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import KINDS, choices
from evidence.grounds.simulated import Choose, Scene, quality, truth
from evidence.protocol.check import Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.records import Matrix
from roster.recipes import find

WIDTH, LEARN = 64, 80


def _label_free(**options: int) -> Choose:
    def choose(seen: Scene, draw: Draw) -> Matrix:
        routing = find("smoothie").compose(**options)
        unlabelled = replace(seen.learn, score_NM=np.full(seen.learn.score_NM.shape, np.nan))
        routing.estimator.fit_embedded(unlabelled, _embedded(seen, draw))
        return choices(routing, seen.judge)

    return choose


def _embedded(seen: Scene, draw: Draw) -> Matrix:
    rng = np.random.default_rng([draw.luck, 8])
    kind_N = np.array([KINDS.index(name) for name in seen.learn.datasets])
    noise_NM = 1 - seen.world.chance_KM[kind_N]
    true_N1D = rng.normal(0, WIDTH**-0.5, (len(seen.learn), 1, WIDTH))
    return true_N1D + noise_NM[:, :, None] ** 0.5 * rng.normal(0, WIDTH**-0.5, (*noise_NM.shape, WIDTH))


def _best_of_all(seen: Scene, _draw: Draw) -> Matrix:
    """The model with the highest true chance overall: a yardstick that has the labels."""
    return np.full(len(seen.judge), seen.judge.score_NM.mean(0).argmax())


CHECKS = (
    make_check(
        slug="smoothie",
        version=1,
        claim="Without labels, routing around each prompt beats the best single model, which labels had to tell.",
        ground="six simulated models, 80 recorded prompts of each of six kinds, embedded answers with independent "
        "noise as the source assumes; judged on 720 other prompts",
        budget="no price; the best single model is given by the true chances",
        contenders={
            "Smoothie": ("noise estimated around each prompt", quality(_label_free(), LEARN)),
            "overall": ("noise estimated once: without the neighbours", quality(_label_free(neighbours=0), LEARN)),
            "best single": ("the model that is best in truth, for all prompts", quality(_best_of_all, LEARN)),
            "truth": ("control: the model that is best in truth for each", quality(truth, LEARN)),
        },
        pairs=Pairs("Smoothie", "best single", "overall", "truth", "best single"),
        statistic=Statistic("true chance that the chosen model is right", "higher", 0.01),
    ),
)
