"""Simulated models (`evidence.checks.simulated_models`) under the protocol: worth from the ground, the rest luck.

Every contender is judged by the true chances of the models that it chooses, on prompts that nobody learned from.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from evidence.checks.simulated_models import World, choices, mean_of, uneven
from evidence.protocol.check import Contender, Draw
from roster.lm.records import Matrix, Records
from roster.recipes import find


@dataclass(frozen=True)
class Scene:
    """What a contender sees.

    Attributes:
        world: its chances are the truth, for controls alone.
        learn: records to learn from.
        judge: other prompts, whose scores are the chances.
    """

    world: World
    learn: Records
    judge: Records

    @property
    def best(self) -> int:
        """The model that is best on the records to learn from."""
        return int(self.learn.score_NM.mean(0).argmax())


@lru_cache(maxsize=4)
def scene(draw: Draw, per_kind: int) -> Scene:
    """Six models, six kinds of prompts."""
    world = replace(uneven(draw.ground), seed=draw.luck)
    return Scene(world, world.learn(20 if draw.short else per_kind), world.judge())


Choose = Callable[[Scene, Draw], Matrix]
"""Positions of the chosen models, [N]."""


def quality(choose: Choose, per_kind: int = 320) -> Contender:
    """A contender whose statistic is the mean chance of the models that it chooses."""

    def run(draw: Draw) -> float:
        seen = scene(draw, per_kind)
        return mean_of(seen.judge.score_NM, choose(seen, draw))

    return run


def best_single(seen: Scene, _draw: Draw) -> Matrix:
    """The best model of the records, for every prompt."""
    return np.full(len(seen.judge), seen.best)


def truth(seen: Scene, _draw: Draw) -> Matrix:
    """The best model of every prompt, by its true chances."""
    best_N: Matrix = seen.judge.score_NM.argmax(1)
    return best_N


def fitted(recipe: str, options: Mapping[str, Any] | None = None, blind: bool = False) -> Choose:
    """What a recipe chooses that learned from the records; `blind` puts the scores beside other prompts first."""

    def choose(seen: Scene, draw: Draw) -> Matrix:
        learn = seen.learn
        if blind:
            order_N = np.random.default_rng(draw.luck).permutation(len(learn))
            learn = replace(learn, prompts=tuple(learn.prompts[n] for n in order_N))
        return choices(find(recipe).compose(**(options or {})).fit(learn), seen.judge)

    return choose


def partly(share: float) -> Choose:
    """The truth for some of the prompts, the best single model for the others: a planted effect of any size."""

    def choose(seen: Scene, draw: Draw) -> Matrix:
        lucky_N = np.random.default_rng([draw.luck, 8]).random(len(seen.judge)) < share
        return np.where(lucky_N, truth(seen, draw), best_single(seen, draw))

    return choose
