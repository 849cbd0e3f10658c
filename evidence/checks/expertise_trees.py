"""Expertise trees: regret below one model for all contexts and below nearest neighbours, splits at true boundaries.

Simulated: contexts uniform in [0, 1]^4, of which two features divide the experts: left of 0.4, right of it below 0.6,
right of it above. In each of the three regions one of four experts gains with chance 0.9, the others with 0.5 (the
fourth always 0.6). 3,000 steps, gains 0 or 1, only the chosen expert's is seen. All learners draw from the same normal
beliefs: the tree per leaf, the global one over everything, the linear one over everything as a linear function of the
context, the neighbours over the k nearest of the earlier contexts (k = 50, 100, 200, 400; the best of them counts, 20
and 800 were tried and are worse). Means of 5 runs per seed.

Second rule: the first had the global learner that does not read the context, as the source has, and neighbours up to
k = 100, the best of which was the last; it was met. The linear learner and the larger k were then added, before any of
them had been run, since "one model for all contexts" may well read the context. The linear one is ahead of the
tree at four seeds of five (at all five in a run with the context centred), so the claim is not shown; the first rule
is still met.

Recorded answers (LLMRouter, complete rows, the first 8 dimensions of the default encoder, in random order) say what the
same learners do without planted regions; nothing was adjusted to them, and they decide nothing.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from roster.lm import data
from roster.lm.encode import TfIdf
from roster.lm.judging import complete
from roster.lm.online import Belief, Learner, replay
from roster.lm.online.tree import ExpertiseTree
from roster.lm.records import Matrix

STEPS, FEATURES, RUNS, NEAR = 3_000, 4, 5, 0.05
BOUNDARIES = ((0, 0.4), (1, 0.6))
NEIGHBOURS = (50, 100, 200, 400)


def check(seed: int) -> dict[str, float]:
    """Regret per step, and how near the first splits are to the boundaries."""
    runs = [_planted(seed, run) for run in range(RUNS)]
    figures = {name: float(np.mean([each[name] for each in runs])) for name in runs[0]}
    return figures | _recorded(seed)


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the tree's regret is below the global learner's, the linear learner's and the best neighbours'; in
    the mean over seeds at least 90 % of the true boundaries have a split within 0.05."""
    rivals = ("global", "linear", *(f"{k} neighbours" for k in NEIGHBOURS))
    return (
        all(each["regret, tree"] < min(each[f"regret, {rival}"] for rival in rivals) for each in figures)
        and float(np.mean([each["boundaries found"] for each in figures])) >= 0.9
    )


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


def _learners(models: int, features: int, size: int, seed: int) -> dict[str, Learner]:
    near = {f"{k} neighbours": Neighbours(models, k, size, seed) for k in NEIGHBOURS}
    alike = {"tree": ExpertiseTree(models, seed=seed), "global": ExpertiseTree(models, depth=0, seed=seed)}
    return {**alike, "linear": Linear(models, features, seed), **near}


def _planted(seed: int, run: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, run])
    x_ND = rng.random((STEPS, FEATURES))
    (first, at_first), (second, at_second) = BOUNDARIES
    region_N = np.where(x_ND[:, first] <= at_first, 0, np.where(x_ND[:, second] <= at_second, 1, 2))
    chance_NM = np.full((STEPS, 4), 0.5)
    chance_NM[:, 3] = 0.6
    chance_NM[np.arange(STEPS), region_N] = 0.9
    gain_NM = (rng.random(chance_NM.shape) < chance_NM).astype(float)
    figures = {}
    for name, learner in _learners(4, FEATURES, STEPS, seed).items():
        chosen_N = replay(learner, x_ND, gain_NM).choice_N
        figures[f"regret, {name}"] = float((0.9 - chance_NM[np.arange(STEPS), chosen_N]).mean())
        if name == "tree":
            splits = learner.splits()
            hits = [any(f == feature and abs(t - at) <= NEAR for f, t in splits) for feature, at in BOUNDARIES]
            figures["boundaries found"], figures["splits"] = float(np.mean(hits)), float(len(splits))
    return figures


def _recorded(seed: int) -> dict[str, float]:
    x_ND, score_NM = _records()
    order = np.random.default_rng(seed).permutation(len(x_ND))
    x_ND, score_NM = x_ND[order], score_NM[order]
    figures = {}
    for name, learner in _learners(score_NM.shape[1], x_ND.shape[1], len(x_ND), seed).items():
        figures[f"recorded: score, {name}"] = float(replay(learner, x_ND, score_NM).gain_N.mean())
    return figures | {"recorded: score, best single": float(score_NM.mean(0).max())}


@cache
def _records() -> tuple[Matrix, Matrix]:
    records = complete(data.load("llmrouter"))
    encoder = TfIdf(dimensions=8).fit(records.prompts)
    return encoder.encode(records.prompts).astype(float), records.score_NM
