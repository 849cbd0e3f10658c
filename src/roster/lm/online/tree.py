"""Expertise trees: who is good where, as a tree over the context that grows while it is used.

A leaf knows the mean gain of every model among the contexts that fell into it, drawn to the prior by a ridge, and
chooses by Thompson sampling. A leaf splits at a threshold of one feature when two leaves predict the gains better than
one: with e the leave-one-out errors, the mean of e_leaf^2 - e_halves^2 must lie `certainty` of its standard errors
above zero. Leaving out each gain from the mean that predicts it makes small halves pay for knowing less; the standard
error makes luck among many thresholds pay too.

Source: Abels, Lenaerts, Trianni, Nowe, 2023, arXiv:2305.01063.
Shape legend: N contexts of a leaf, M models, D features, H thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix


@dataclass
class Leaf:
    """What was seen in one region.

    Attributes:
        seen: (features [D], model, gain) in their order.
        count_M, total_M: gains per model: how many, and their sum.
        looked: how many had been seen when a split was last tried.
    """

    models: int
    seen: list[tuple[NDArray[Any], int, float]] = field(default_factory=list)
    looked: int = 0

    def __post_init__(self) -> None:
        self.count_M, self.total_M = np.zeros(self.models), np.zeros(self.models)

    def add(self, x_D: NDArray[Any], arm: int, gain: float) -> None:
        """One more gain."""
        self.seen.append((x_D, arm, gain))
        self.count_M[arm] += 1
        self.total_M[arm] += gain


@dataclass(frozen=True)
class Split:
    """An inner node: contexts with `feature` at most `threshold` go left."""

    feature: int
    threshold: float
    left: Split | Leaf
    right: Split | Leaf


class ExpertiseTree:
    """A `Learner` (`roster.lm.online.replay`).

    Args:
        models: M.
        depth: of the tree at most; 0 is one leaf, Thompson sampling without context.
        certainty: standard errors by which a split must be better.
        smallest: contexts on either side of a split.
        thresholds: tried per feature, at even quantiles of the leaf's contexts.
        prior: mean gain before anything was seen, and the number of gains it counts for.
        noise: standard deviation of a gain around its mean.
        seed: of the draws.

    Raises:
        RosterError: no models, or numbers that are not above zero.
    """

    def __init__(
        self,
        models: int,
        depth: int = 6,
        certainty: float = 3.5,
        smallest: int = 20,
        thresholds: int = 15,
        prior: tuple[float, float] = (0.5, 1.0),
        noise: float = 0.5,
        seed: int = 0,
    ):
        if min(models, smallest, thresholds) < 1 or min(certainty, prior[1], noise) <= 0 or depth < 0:
            raise RosterError("an expertise tree needs models, and numbers above zero for all that it weighs")
        self.models, self.depth, self.certainty, self.smallest = models, depth, certainty, smallest
        self.thresholds, self.prior, self.noise = thresholds, prior, noise
        self.root: Split | Leaf = Leaf(models)
        self._rng = np.random.default_rng(seed)

    def choose(self, x_D: NDArray[Any]) -> int:
        """The best model of one draw from what the context's leaf believes."""
        leaf, _ = self._find(x_D)
        weight_M = leaf.count_M + self.prior[1]
        mean_M = (leaf.total_M + self.prior[0] * self.prior[1]) / weight_M
        return int(self._rng.normal(mean_M, self.noise * weight_M**-0.5).argmax())

    def learn(self, x_D: NDArray[Any], arm: int, gain: float) -> None:
        """Adds the gain to the context's leaf, and splits it where that has become worth it."""
        leaf, path = self._find(x_D)
        leaf.add(np.asarray(x_D, dtype=float), arm, float(gain))
        # Tried again after a tenth more: the cost of all tries stays proportional to what was seen.
        if len(path) < self.depth and len(leaf.seen) >= max(2 * self.smallest, 1.1 * leaf.looked):
            leaf.looked = len(leaf.seen)
            found = self._best_split(leaf)
            if found is not None:
                self._replace(path, self._divide(leaf, *found))

    def splits(self) -> list[tuple[int, float]]:
        """(feature, threshold) of every inner node, from the root down."""
        found, todo = [], [self.root]
        while todo:
            node = todo.pop(0)
            if isinstance(node, Split):
                found.append((node.feature, node.threshold))
                todo += [node.left, node.right]
        return found

    def _find(self, x_D: NDArray[Any]) -> tuple[Leaf, list[tuple[Split, bool]]]:
        node, path = self.root, []
        while isinstance(node, Split):
            left = bool(x_D[node.feature] <= node.threshold)
            path.append((node, left))
            node = node.left if left else node.right
        return node, path

    def _replace(self, path: list[tuple[Split, bool]], node: Split) -> None:
        for parent, left in reversed(path):
            sides = (node, parent.right) if left else (parent.left, node)
            node = Split(parent.feature, parent.threshold, *sides)
        self.root = node

    def _divide(self, leaf: Leaf, feature: int, threshold: float) -> Split:
        left, right = Leaf(self.models), Leaf(self.models)
        for x_D, arm, gain in leaf.seen:
            (left if x_D[feature] <= threshold else right).add(x_D, arm, gain)
        left.looked, right.looked = len(left.seen), len(right.seen)
        return Split(feature, threshold, left, right)

    def _best_split(self, leaf: Leaf) -> tuple[int, float] | None:
        x_ND = np.array([x_D for x_D, _, _ in leaf.seen])
        arm_N = np.array([arm for _, arm, _ in leaf.seen])
        gain_N = np.array([gain for _, _, gain in leaf.seen])
        whole_1N = self._errors(np.ones((1, len(x_ND)), dtype=bool), arm_N, gain_N)
        best, found = self.certainty, None
        for feature in range(x_ND.shape[1]):
            at_H = np.unique(np.quantile(x_ND[:, feature], np.linspace(0, 1, self.thresholds + 2)[1:-1]))
            left_HN = x_ND[:, feature] <= at_H[:, None]
            size_H = left_HN.sum(1)
            allowed_H = np.minimum(size_H, len(x_ND) - size_H) >= self.smallest
            if not allowed_H.any():
                continue
            at_H, left_HN = at_H[allowed_H], left_HN[allowed_H]
            halves_HN = np.where(left_HN, self._errors(left_HN, arm_N, gain_N), self._errors(~left_HN, arm_N, gain_N))
            better_HN = whole_1N**2 - halves_HN**2
            sure_H = better_HN.mean(1) / np.maximum(better_HN.std(1), 1e-12) * len(x_ND) ** 0.5
            if sure_H.max() > best:
                best, found = float(sure_H.max()), (feature, float(at_H[sure_H.argmax()]))
        return found

    def _errors(self, side_HN: NDArray[np.bool_], arm_N: NDArray[Any], gain_N: Matrix) -> Matrix:
        """Each gain less the mean of its model's other gains on its side; of no meaning for the other side, [H, N]."""
        one_MN = arm_N == np.arange(self.models)[:, None]
        count_HN = (side_HN @ one_MN.T.astype(float))[:, arm_N]
        total_HN = (side_HN @ (one_MN * gain_N).T)[:, arm_N]
        weight = self.prior[1]
        error_HN: Matrix = gain_N - (total_HN - gain_N + self.prior[0] * weight) / (
            np.maximum(count_HN - 1, 0) + weight
        )
        return error_HN
