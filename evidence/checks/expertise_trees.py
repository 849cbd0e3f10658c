"""Expertise trees' claim: where experts are good in different regions of the context, a tree of models regrets
less than one model for all contexts.

Simulated: contexts uniform in [0, 1]^4, of which two features divide the experts: left of 0.4, right of it below 0.6,
right of it above. In each of the three regions one of four experts gains with chance 0.9, the others with 0.5 (the
fourth always 0.6). 3,000 steps, gains 0 or 1, only the chosen expert's is seen. All learners draw from the same normal
beliefs: the tree per leaf, the linear one over everything as a linear function of the context, the neighbours over the
k nearest of the earlier contexts (k = 50, 100, 200, 400; the best of them counts).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.online import Belief, Learner, replay
from roster.lm.online.tree import ExpertiseTree

STEPS, FEATURES, EXPERTS = 3_000, 4, 4
BOUNDARIES = ((0, 0.4), (1, 0.6))
NEIGHBOURS = (50, 100, 200, 400)
Make = Callable[[int], Learner]
"""A learner of a seed."""


class Neighbours:
    """Thompson sampling from the k nearest contexts, with the tree's prior and noise."""

    def __init__(self, models: int, neighbours: int, size: int, seed: int):
        self.models, self.neighbours = models, neighbours
        self.x_ND, self.arm_N, self.gain_N = np.empty((size, 0)), np.empty(size, dtype=int), np.empty(size)
        self.seen, self._rng = 0, np.random.default_rng(seed)

    def choose(self, x_D: NDArray) -> int:
        """The best model of one draw."""
        near = np.arange(self.seen)
        if self.seen > self.neighbours:
            far_N = ((self.x_ND[: self.seen] - x_D) ** 2).sum(1)
            near = np.argpartition(far_N, self.neighbours)[: self.neighbours]
        weight_M = np.bincount(self.arm_N[near], minlength=self.models) + 1.0
        mean_M = (np.bincount(self.arm_N[near], self.gain_N[near], minlength=self.models) + 0.5) / weight_M
        return int(self._rng.normal(mean_M, 0.5 * weight_M**-0.5).argmax())

    def learn(self, x_D: NDArray, arm: int, gain: float) -> None:
        """Remembers."""
        if not self.x_ND.shape[1]:
            self.x_ND = np.empty((len(self.x_ND), len(x_D)))
        self.x_ND[self.seen], self.arm_N[self.seen], self.gain_N[self.seen] = x_D, arm, gain
        self.seen += 1


class Linear:
    """Thompson sampling from a linear function of the context per model, with the tree's prior mean and noise."""

    def __init__(self, models: int, features: int, seed: int):
        self.beliefs = [Belief(features + 1, prior=0.5) for _ in range(models)]
        self._rng = np.random.default_rng(seed)

    def choose(self, x_D: NDArray) -> int:
        """The best model of one draw."""
        f_D = np.append(x_D, 1.0)
        mean_M, width_M = (np.array([getattr(b, name)(f_D) for b in self.beliefs]) for name in ("mean", "width"))
        return int(self._rng.normal(mean_M, 0.5 * width_M).argmax())

    def learn(self, x_D: NDArray, arm: int, gain: float) -> None:
        """One more gain."""
        self.beliefs[arm].observe(np.append(x_D, 1.0), gain)


def _regret(*makers: Make, told: float = 0.0) -> Contender:
    """Regret per step; of several learners that of the best. A share of the steps may be told the best expert."""

    def run(draw: Draw) -> float:
        rng, steps = np.random.default_rng([draw.ground, 0]), draw.steps(STEPS)
        x_ND = rng.random((steps, FEATURES))
        (first, at_first), (second, at_second) = BOUNDARIES
        region_N = np.where(x_ND[:, first] <= at_first, 0, np.where(x_ND[:, second] <= at_second, 1, 2))
        chance_NM = np.full((steps, EXPERTS), 0.5)
        chance_NM[:, -1] = 0.6
        chance_NM[np.arange(steps), region_N] = 0.9
        luck = np.random.default_rng([draw.luck, 1])
        gain_NM = (luck.random(chance_NM.shape) < chance_NM).astype(float)
        lucky_N = luck.random(steps) < told
        found = []
        for make in makers:
            chosen_N = np.where(lucky_N, region_N, replay(make(draw.luck), x_ND, gain_NM).choice_N)
            found.append(float((0.9 - chance_NM[np.arange(steps), chosen_N]).mean()))
        return min(found)

    return run


def _linear(seed: int) -> Learner:
    return Linear(EXPERTS, FEATURES, seed)


def _near(neighbours: int) -> Make:
    return lambda seed: Neighbours(EXPERTS, neighbours, STEPS, seed)


CHECKS = (
    make_check(
        slug="expertise-trees",
        version=1,
        claim="Where experts differ by regions of the context, a tree regrets less than one model for all.",
        ground="simulated: contexts of four features, three regions, four experts, 3,000 steps",
        budget="the same beliefs and the same contexts; only the chosen expert's gain is seen",
        contenders={
            "tree": ("a tree of beliefs", _regret(lambda seed: ExpertiseTree(EXPERTS, seed=seed))),
            "linear": ("one model for all contexts, linear in them", _regret(_linear)),
            "no splits": (
                "a tree that may not split",
                _regret(lambda seed: ExpertiseTree(EXPERTS, depth=0, seed=seed)),
            ),
            "neighbours": ("the best of four numbers of nearest contexts", _regret(*(_near(k) for k in NEIGHBOURS))),
            "told": ("control: linear, but told the best expert in a third of the steps", _regret(_linear, told=1 / 3)),
        },
        pairs=Pairs("tree", "linear", "no splits", "told", "linear"),
        statistic=Statistic("regret per step", "lower", 0.01),
    ),
)
