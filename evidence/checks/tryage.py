"""Tryage's claim: it names the best model for a prompt more often than any fixed choice does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import choices
from evidence.grounds.simulated import Scene, best_single, scene, truth
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.records import Matrix, Records
from roster.recipes import find

LEARN = 320


def _named(choose: Callable[[Scene, Draw], Matrix]) -> Contender:
    """Share of the prompts whose best model, by its true chances, is the chosen one."""

    def run(draw: Draw) -> float:
        seen = scene(draw, LEARN)
        return float((choose(seen, draw) == truth(seen, draw)).mean())

    return run


def _fitted(learn: Callable[[Scene, Draw], Records]) -> Callable[[Scene, Draw], Matrix]:
    return lambda seen, draw: choices(find("tryage").compose().fit(learn(seen, draw)), seen.judge)


def _blind(seen: Scene, draw: Draw) -> Records:
    """The same scores beside other prompts."""
    order_N = np.random.default_rng(draw.luck).permutation(len(seen.learn))
    return replace(seen.learn, prompts=tuple(seen.learn.prompts[n] for n in order_N))


CHECKS = (
    make_check(
        slug="tryage",
        version=1,
        claim="It names the best model for a prompt more often than the best fixed choice.",
        ground="six simulated models of known worth, 320 recorded prompts of each of six kinds; judged on 720 others",
        budget="the same records for all; no price",
        contenders={
            "Tryage": ("every model's loss forecast from the prompt", _named(_fitted(lambda seen, _draw: seen.learn))),
            "fixed": ("the best model of the records, for every prompt", _named(best_single)),
            "blind": ("the same forecast learned from shuffled prompts", _named(_fitted(_blind))),
            "truth": ("control: the truth", _named(truth)),
        },
        pairs=Pairs("Tryage", "fixed", "blind", "truth", "fixed"),
        statistic=Statistic("share of prompts whose best model is named", "higher", 0.02),
    ),
)
